import type { Books } from '../books.ts'
import type { Needs, Stage } from '../stage.ts'

/** One thing that went wrong on purpose. */
export type Incident = {
  readonly fault: string
  readonly at_s: number
  /** Milliseconds from the moment that `since` names to the first decision. */
  readonly recovered_ms: number
  readonly since: string
  readonly note?: string
}

export type Fault = {
  readonly name: string
  /** What happens, for the report. */
  readonly what: string
  readonly needs: Needs
  /** The pause before each strike, seconds, unless the run says otherwise. */
  readonly every_s: number
  /** At most so often; without it as long as the run lasts. */
  readonly times?: number
  /** Does the damage and returns when service is back. */
  strike(stage: Stage, books: Books): Promise<Omit<Incident, 'fault' | 'at_s'>>
}
