import { setTimeout as sleep } from 'node:timers/promises'

/** How far a request may move what is left of the budget (nano-dollars) and of the quota (ops), up and down. */
export type Reach = {
  readonly budgetUp?: number
  readonly budgetDown?: number
  readonly opsUp?: number
  readonly opsDown?: number
}
export type Moved = { readonly budget: number; readonly ops: number }
export const NOTHING: Moved = { budget: 0, ops: 0 }

/** What is left of something: a known amount, and how much more or less it may be. */
class Left {
  known: number
  up = 0
  down = 0
  constructor(known: number) {
    this.known = known
  }
  get most(): number {
    return this.known + this.up
  }
  get least(): number {
    return this.known - this.down
  }
}

/** One request under way, with what it may find when it is decided. */
export type Flight = {
  readonly reach: Required<Reach>
  readonly budget: Left
  readonly ops: Left
  /** Whether no other request of the account was under way at any time. */
  isAlone: boolean
}

/** Longer than PostgreSQL may go on with a statement whose sender is gone. */
const DOUBT_MS = 20_000
/** Dollars in answers have six places. */
const ROUNDING_NANOUSD = 1_000

/**
 * What an account may have left, as far as its requests tell. A request is decided at some moment between sending and answer, so it may have
 * been preceded by any of those under way meanwhile; without those the figures are exact.
 */
export class AccountModel {
  readonly #budget: Left
  readonly #ops: Left
  readonly #flights = new Set<Flight>()
  #doubtedAt = Number.NEGATIVE_INFINITY

  constructor(budget_nanousd: number, ops: number) {
    this.#budget = new Left(budget_nanousd)
    this.#ops = new Left(ops)
  }

  get underWay(): number {
    return this.#flights.size
  }

  begin(reach: Reach = {}): Flight {
    const whole = { budgetUp: 0, budgetDown: 0, opsUp: 0, opsDown: 0, ...reach }
    const flight: Flight = {
      reach: whole,
      budget: Object.assign(new Left(this.#budget.known), { up: this.#budget.up, down: this.#budget.down }),
      ops: Object.assign(new Left(this.#ops.known), { up: this.#ops.up, down: this.#ops.down }),
      isAlone: this.#flights.size === 0,
    }
    for (const other of this.#flights) {
      widen(flight, other.reach)
      widen(other, whole)
      other.isAlone = false
    }
    this.#flights.add(flight)
    return flight
  }

  /** The request has been answered: this is what it moved. */
  end(flight: Flight, moved: Moved): void {
    this.#flights.delete(flight)
    this.#budget.known += moved.budget
    this.#ops.known += moved.ops
  }

  /** Nobody will ever say whether it was carried out: from now on both must be reckoned with. */
  doubt(flight: Flight): void {
    this.#flights.delete(flight)
    this.#budget.up += flight.reach.budgetUp
    this.#budget.down += flight.reach.budgetDown
    this.#ops.up += flight.reach.opsUp
    this.#ops.down += flight.reach.opsDown
    this.#doubtedAt = performance.now()
  }

  /** Takes over what the server says, which was found possible, when nothing else was under way and nothing doubtful can still happen. */
  settle(flight: Flight, said: Partial<Moved>): void {
    this.end(flight, NOTHING)
    if (!flight.isAlone || performance.now() - this.#doubtedAt < DOUBT_MS) return
    if (said.budget !== undefined && this.#budget.up + this.#budget.down > 0)
      Object.assign(this.#budget, { known: said.budget, up: ROUNDING_NANOUSD, down: ROUNDING_NANOUSD })
    if (said.ops !== undefined && this.#ops.up + this.#ops.down > 0) Object.assign(this.#ops, { known: said.ops, up: 0, down: 0 })
  }

  /** Waits until nothing doubtful can still happen. */
  async calm(): Promise<void> {
    await sleep(Math.max(0, this.#doubtedAt + DOUBT_MS - performance.now()))
  }
}

function widen(flight: Flight, reach: Required<Reach>): void {
  flight.budget.up += reach.budgetUp
  flight.budget.down += reach.budgetDown
  flight.ops.up += reach.opsUp
  flight.ops.down += reach.opsDown
}

/** @returns what an answer got wrong, null when it may be right */
export function impossibleBudget({ budget }: Flight, moved: number, remaining_usd: number): string | null {
  const said = remaining_usd * 1e9
  const most = Math.max(0, budget.most + moved) + ROUNDING_NANOUSD
  const least = Math.max(0, budget.least + moved) - ROUNDING_NANOUSD
  return said > most || said < least ? `said ${said} nano-dollars remain, ${least} to ${most} may` : null
}

export function impossibleOps({ ops }: Flight, moved: number, said: number): string | null {
  return said > ops.most + moved || said < ops.least + moved
    ? `said ${said} ops remain, ${ops.least + moved} to ${ops.most + moved} may`
    : null
}
