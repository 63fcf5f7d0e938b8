/** On an answer that another server has given through this one: the address at which a client reaches that server itself. */
export const OWNER_HEADER = "Tributary-Owner";
