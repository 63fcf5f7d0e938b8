/** On an answer that another server has given through this one: the address at which a client reaches that server itself. */
export const OWNER_HEADER = "Tributary-Owner";
/** On an answer to a read that named a level: what it keeps to. A server of an earlier version passes the level over, and does not say so. */
export const LEVEL_HEADER = "Tributary-Level";
