import type { Clock } from '../core/clock.ts'

/** `off`: not set up here, which is nobody's fault. */
export type CheckState = 'ok' | 'slow' | 'down' | 'off'
export type CheckResult = {
  readonly name: string
  readonly state: CheckState
  /** For people; holds no address and no error text. */
  readonly detail: string
  readonly took_ms: number
}
export type Status = {
  /** `down` when the database is; `degraded` when anything else is not as it should be. */
  readonly state: 'ok' | 'degraded' | 'down'
  readonly checkedMs: number
  readonly checks: readonly CheckResult[]
}

/** Looks once; rejects when it does not answer. `signal` ends what it began. */
export type Probe = (signal: AbortSignal) => Promise<{ state: CheckState; detail: string }>
export type Check = { readonly name: string; readonly isVital: boolean; readonly probe: Probe }
export type StatusOptions = { readonly timeout_ms: number; readonly cache_ms: number }

const DEFAULTS: StatusOptions = { timeout_ms: 2_500, cache_ms: 5_000 }

/**
 * Whether what the service needs is there. However many ask, each thing is looked at once in a few seconds, and never longer than the timeout:
 * a flood of visitors reaches no dependency.
 */
export class StatusService {
  readonly #clock: Clock
  readonly #checks: readonly Check[]
  readonly #options: StatusOptions
  #last: Status | null = null
  #running: Promise<Status> | null = null

  constructor(deps: { clock: Clock; checks: readonly Check[] }, options: Partial<StatusOptions> = {}) {
    this.#clock = deps.clock
    this.#checks = deps.checks
    this.#options = { ...DEFAULTS, ...options }
  }

  async status(): Promise<Status> {
    if (this.#last && this.#clock.now() - this.#last.checkedMs < this.#options.cache_ms) return this.#last
    this.#running ??= this.#look().finally(() => {
      this.#running = null
    })
    return this.#running
  }

  async #look(): Promise<Status> {
    const checks = await Promise.all(this.#checks.map((check) => this.#run(check)))
    const isVital = (name: string) => this.#checks.some((check) => check.name === name && check.isVital)
    const state = checks.some((check) => check.state === 'down' && isVital(check.name))
      ? 'down'
      : checks.some((check) => check.state === 'down' || check.state === 'slow')
        ? 'degraded'
        : 'ok'
    this.#last = { state, checkedMs: this.#clock.now(), checks }
    return this.#last
  }

  async #run({ name, probe }: Check): Promise<CheckResult> {
    const started = performance.now()
    const abort = new AbortController()
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        abort.abort()
        reject(new Error('late'))
      }, this.#options.timeout_ms)
    })
    const result = await Promise.race([probe(abort.signal), late]).catch(() => ({
      state: 'down' as const,
      detail: abort.signal.aborted ? 'no answer in time' : 'does not answer',
    }))
    clearTimeout(timer)
    return { name, ...result, took_ms: Math.round(performance.now() - started) }
  }
}
