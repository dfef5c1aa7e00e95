import type { Runner } from './runner.ts'

/** A change of an account that the decision engine does not make. */
export type Change = {
  readonly accountId: string
  readonly id: string
  /** What happened, e.g. `key.created`. */
  readonly type: string
  /** The agent path that it is about; null for the account itself. */
  readonly agentId: string | null
  /** Who did it (`actorOf`). */
  readonly actor: string
  /** Holds no credential. */
  readonly data: Readonly<Record<string, unknown>>
  readonly atMs: number
}

/** Records changes for the audit trail, in the transaction that makes them; implemented by the audit room. */
export type Recorder = { record(runner: Runner, change: Change): Promise<void> }
