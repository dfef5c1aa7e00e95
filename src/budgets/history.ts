// What the decision engine has recorded, for the audit room: every approval, denial and movement of an account in one order.
// An event carries the version that its batch made of the account, so all events of versions up to the account's own are there.
export {
  type AccountVersion,
  closeVersion,
  type Direction,
  grouped,
  type HistoryRange,
  type HistoryRequest,
  type HistoryRow,
  listVersions,
  type Place,
  RANK,
  readHistories,
  readHistory,
  requestColumns,
} from './history.store.ts'
