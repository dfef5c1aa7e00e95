import type { Draft } from './draft.ts'
import type { ClearCommand, DenialReason, EnvelopeState, LoopEntry, LoopLimit, LoopState } from './state.ts'
import { HOLD_KIND } from './tables.ts'

/** After so many denials of the same clearance, further ones are a loop. The first retry still hears the reason itself. */
const DENIALS_HEARD = 2

/** Reasons that stay the same however often the caller asks: something outside has to change first. Time alone lifts an exceeded envelope, which is no reason to hammer. */
const isTerminal = (reason: DenialReason): boolean => reason !== 'loop_detected'

/** What makes two clearances of one agent the same: the prompt where it is known, else model and price. */
export const fingerprintOf = (command: ClearCommand): string => command.fingerprint ?? `${command.model}\n${command.estimate}`

export const loopKey = (agentId: string, fingerprint: string): string => `${agentId}\n${fingerprint}`

/**
 * The loop limit that a clearance is held to: the strictest of the envelopes on its path (fewest repeats, then the longest window), so that
 * no level can loosen another's; the command's own only where none has one. Bookings have none: the same small purchase over and over is what
 * a crawler does.
 */
export function loopLimitOf(
  command: ClearCommand,
  envelope: (agentId: string) => EnvelopeState | null | undefined,
): LoopLimit | null {
  if (command.holdKind === HOLD_KIND.booking || command.forced) return null
  let strictest: LoopLimit | null = null
  for (const agentId of command.path) {
    const limit = envelope(agentId)?.loop
    if (limit && (strictest === null || isStricter(limit, strictest))) strictest = limit
  }
  return strictest ?? command.loop ?? null
}

const isStricter = (a: LoopLimit, b: LoopLimit): boolean =>
  a.maxRepeats === b.maxRepeats ? a.window_ms > b.window_ms : a.maxRepeats < b.maxRepeats

/**
 * One more of the same. A window begins with the first and ends `window_ms` later; but once there were too many, it ends only when none came
 * for that long: an agent that loops on does not get a fresh allowance each minute.
 */
export function seenAgain(before: LoopState | undefined, limit: LoopLimit, at_ms: number): LoopState {
  const isOver =
    before === undefined ||
    at_ms - before.lastMs >= limit.window_ms ||
    (before.count <= limit.maxRepeats && at_ms - before.startedMs >= limit.window_ms)
  if (isOver) return { count: 1, denials: 0, startedMs: at_ms, lastMs: at_ms }
  return { ...before, count: before.count + 1, lastMs: at_ms }
}

/** A clearance as its loop limit sees it, while it is decided. */
export class LoopWatch {
  readonly #draft: Draft
  readonly #command: ClearCommand
  readonly #limit: LoopLimit
  readonly #state: LoopState

  private constructor(draft: Draft, command: ClearCommand, limit: LoopLimit) {
    this.#draft = draft
    this.#command = command
    this.#limit = limit
    this.#state = seenAgain(draft.loop(loopKey(command.agentId, fingerprintOf(command))), limit, draft.clockMs)
  }

  /** null where no limit applies. It is counted once it is known what becomes of it. */
  static of(draft: Draft, command: ClearCommand): LoopWatch | null {
    const limit = loopLimitOf(command, (agentId) => draft.envelope(agentId))
    return limit === null ? null : new LoopWatch(draft, command, limit)
  }

  get isLoop(): boolean {
    return this.#state.count > this.#limit.maxRepeats
  }

  approved(): void {
    this.#store(this.#state)
  }

  /** Notes a denial. @returns whether it has been told often enough that asking again is a loop */
  denied(reason: DenialReason): boolean {
    if (!isTerminal(reason)) {
      this.#store(this.#state)
      return false
    }
    this.#store({ ...this.#state, denials: this.#state.denials + 1 })
    return this.#state.denials >= DENIALS_HEARD
  }

  #store(state: LoopState): void {
    const { agentId } = this.#command
    const fingerprint = fingerprintOf(this.#command)
    const entry: LoopEntry = { agentId, fingerprint, state, window_ms: this.#limit.window_ms }
    this.#draft.countLoop(loopKey(agentId, fingerprint), entry)
  }
}
