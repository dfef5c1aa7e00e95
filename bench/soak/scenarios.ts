import { randomUUID } from 'node:crypto'
import type { ClearBody, Fields, ResolvedBody } from '../../test/support/client.ts'
import { pick } from '../../test/support/load.ts'
import { type Flight, impossibleBudget, impossibleOps, NOTHING } from './account-model.ts'
import type { Books } from './books.ts'
import type { Journal } from './journal.ts'
import { callTool, type Sender, type Sent } from './sender.ts'
import { AGENT, MODEL, NANOUSD_PER_TOKEN, RATE, type Tenant } from './tenants.ts'

export type Deps = { readonly sender: Sender; readonly books: Books; readonly journal: Journal; readonly random: () => number }
/** @param due when it was to begin, by the monotonic clock */
export type Scenario = (deps: Deps, tenant: Tenant, due: number) => Promise<void>

/** So long that none expires before it is resolved. */
const HOLD_SECONDS = 604_800
const MOST_OPEN = 40
/** Fewer than are burned between two grants. */
const GRANTED_OPS = 5
const REPLAYED = 0.3

type Via = 'rest' | 'keyed' | 'mcp'

const clearVia =
  (via: Via): Scenario =>
  async (deps, tenant, due) => {
    const { sender, books, journal, random } = deps
    if (tenant.open.length >= MOST_OPEN) return reconcileVia(via)(deps, tenant, due)
    const tokens = 100 + Math.floor(random() * 2000)
    const cost = tokens * NANOUSD_PER_TOKEN
    const input = { agent_id: AGENT, model: MODEL, estimated_tokens: tokens, hold_seconds: HOLD_SECONDS }
    const idempotencyKey = `clear-${tenant.serial++}`
    const flight = tenant.model.begin({ budgetDown: cost, opsDown: 1 })
    const sent: Sent<ClearBody> = await sender.send(`clear ${via}`, due, via === 'keyed', (client) =>
      via === 'mcp'
        ? callTool<ClearBody>(client, tenant.key, 'budget_clear', input)
        : client.clear(tenant.key, input, via === 'keyed' ? { idempotencyKey } : {}),
    )
    if (!isAnswered(tenant, flight, sent)) return
    const { status, body } = sent.answer
    if (status !== 200) return refused(deps, tenant, flight, `clear ${via}`, sent.answer)
    tenant.model.end(flight, body.approved ? { budget: -cost, ops: -1 } : NOTHING)
    for (const wrong of wrongDecision(flight, cost, body)) books.fault(`${tenant.accountId} clear ${via} of ${cost}: ${wrong}`)
    if (!body.approved) books.denied++
    if (body.clearance_id !== undefined) {
      journal.add({ what: 'approved', accountId: tenant.accountId, clearanceId: body.clearance_id })
      tenant.open.push({ id: body.clearance_id, tokens })
    }
    if (via !== 'keyed' || random() > REPLAYED) return
    const again: Sent<ClearBody> = await sender.send('replay', performance.now(), true, (client) =>
      client.clear(tenant.key, input, { idempotencyKey }),
    )
    if (typeof again === 'string') return
    const { headers } = again.answer
    if (headers['idempotent-replayed'] !== 'true' || JSON.stringify(again.answer.body) !== JSON.stringify(body))
      books.fault(`${tenant.accountId}: ${JSON.stringify(body)} was replayed as ${JSON.stringify(again.answer.body)}`)
  }

/** What is wrong with a decision, given all that it may have been preceded by. */
function wrongDecision(flight: Flight, cost: number, body: ClearBody): string[] {
  const { approved, reason, remaining_usd, operations_remaining } = body
  const { budget, ops } = flight
  if (approved) {
    const wrongBudget = impossibleBudget(flight, -cost, remaining_usd)
    const wrongOps = impossibleOps(flight, -1, operations_remaining ?? -1)
    return [
      ...(budget.most < cost ? [`approved with at most ${budget.most} left`] : []),
      ...(ops.most < 1 ? ['approved without ops'] : []),
      ...(wrongBudget === null ? [] : [wrongBudget]),
      ...(wrongOps === null ? [] : [wrongOps]),
    ]
  }
  if (reason === 'envelope_exceeded') {
    const wrongBudget = impossibleBudget(flight, 0, remaining_usd)
    if (budget.least >= cost) return [`denied with at least ${budget.least} left`]
    return wrongBudget === null ? [] : [wrongBudget]
  }
  if (reason === 'no_credits') return ops.least >= 1 ? [`no_credits with at least ${ops.least} ops`] : []
  return [`denied: ${reason}`]
}

const reconcileVia =
  (via: Via): Scenario =>
  async (deps, tenant, due) => {
    const hold = tenant.open.shift()
    if (hold === undefined) return clearVia(via)(deps, tenant, due)
    const used = Math.floor(hold.tokens * (0.3 + deps.random() * 0.8))
    const back = (hold.tokens - used) * NANOUSD_PER_TOKEN
    const input = { agent_id: AGENT, clearance_id: hold.id, actual_input_tokens: 0, actual_output_tokens: used }
    const options = via === 'keyed' ? { idempotencyKey: `settle-${tenant.serial++}` } : {}
    await resolve(deps, tenant, { kind: `reconcile ${via}`, what: 'settled', id: hold.id, back, due }, (client) =>
      via === 'mcp'
        ? callTool<ResolvedBody>(client, tenant.key, 'reconcile', input)
        : client.reconcile(tenant.key, input, options),
    )
  }

const release: Scenario = async (deps, tenant, due) => {
  const hold = tenant.open.shift()
  if (hold === undefined) return clearVia('rest')(deps, tenant, due)
  const back = hold.tokens * NANOUSD_PER_TOKEN
  await resolve(deps, tenant, { kind: 'release', what: 'released', id: hold.id, back, due }, (client) =>
    client.release(tenant.key, hold.id),
  )
}

type Resolution = {
  readonly kind: string
  readonly what: 'settled' | 'released'
  readonly id: string
  readonly back: number
  readonly due: number
}

/** A clearance is resolved once by its id, so this may be sent again, with or without a key. */
async function resolve(
  deps: Deps,
  tenant: Tenant,
  { kind, what, id, back, due }: Resolution,
  send: Parameters<Sender['send']>[3],
): Promise<void> {
  const { sender, books, journal } = deps
  const flight = tenant.model.begin(back > 0 ? { budgetUp: back } : { budgetDown: -back })
  const sent = (await sender.send(kind, due, true, send)) as Sent<ResolvedBody>
  if (!isAnswered(tenant, flight, sent)) return
  const { status, body } = sent.answer
  if (status !== 200 || body.clearance_id !== id) return refused(deps, tenant, flight, kind, sent.answer)
  tenant.model.end(flight, { budget: back, ops: 0 })
  journal.add({ what, accountId: tenant.accountId, clearanceId: id })
  // A repeated answer is that of the first time, which may have come long before.
  const wrong = body.replayed ? null : impossibleBudget(flight, back, body.remaining_usd)
  if (wrong !== null) books.fault(`${tenant.accountId} ${kind} of ${back}: ${wrong}`)
}

const rateCheck: Scenario = async ({ sender, books }, tenant, due) => {
  const end = tenant.rate.begin()
  const sent = await sender.send('rate check', due, false, (client) => client.rateCheck(tenant.key, RATE))
  const wrong = end(typeof sent === 'string' ? (sent === 'undone' ? false : null) : sent.answer.body.allowed)
  if (wrong !== null && sent !== 'undone') books.fault(`${tenant.accountId} rate check: ${wrong}`)
}

/** Two agents ask at once whether they are first. */
const idempotencyCheck: Scenario = async ({ sender, books }, tenant, due) => {
  const name = `action-${tenant.serial++}`
  const sent = await Promise.all(
    [due, due].map((at) => sender.send('idempotency check', at, false, (client) => client.idempotencyCheck(tenant.key, name))),
  )
  const known = sent.flatMap((one) => (typeof one === 'string' ? [] : [one.answer.body.is_first_call]))
  const first = known.filter((isFirst) => isFirst).length
  if (first > 1 || (known.length === 2 && first === 0))
    books.fault(`${tenant.accountId}: ${first} of two were first with ${name}`)
}

export const read: Scenario = async ({ sender, books }, tenant, due) => {
  const flight = tenant.model.begin()
  const path = `/v1/budget/envelope/${AGENT}`
  const sent = await sender.send('read', due, true, (client) => client.send({ method: 'GET', path, key: tenant.key }))
  if (!isAnswered(tenant, flight, sent)) return
  const remaining = Number(sent.answer.body.remaining_usd)
  const wrong = impossibleBudget(flight, 0, remaining)
  if (wrong !== null) books.fault(`${tenant.accountId} envelope: ${wrong}`)
  // Below zero is shown as zero, which says less than the model knows.
  tenant.model.settle(flight, remaining > 0 ? { budget: Math.round(remaining * 1e9) } : {})
}

export const balance: Scenario = async ({ sender, books }, tenant, due) => {
  const flight = tenant.model.begin()
  const sent = await sender.send('read', due, true, (client) => callTool(client, tenant.key, 'get_balance', {}))
  if (!isAnswered(tenant, flight, sent)) return
  const ops = Number(sent.answer.body.operations_remaining)
  const wrong = impossibleOps(flight, 0, ops)
  if (wrong !== null) books.fault(`${tenant.accountId} balance: ${wrong}`)
  tenant.model.settle(flight, { ops })
}

const grant: Scenario = async (deps, tenant, due) => {
  const { sender, books } = deps
  const flight = tenant.model.begin({ opsUp: GRANTED_OPS })
  const idempotencyKey = `grant-${randomUUID()}`
  const body = { api_key: tenant.key, operations: GRANTED_OPS }
  const sent = await sender.send('grant', due, true, (client) =>
    client.send<Fields>({ method: 'POST', path: '/v1/admin/seed', admin: true, body, idempotencyKey }),
  )
  if (!isAnswered(tenant, flight, sent)) return
  if (sent.answer.status !== 200) return refused(deps, tenant, flight, 'grant', sent.answer)
  tenant.model.end(flight, { budget: 0, ops: GRANTED_OPS })
  const isReplay = sent.answer.headers['idempotent-replayed'] === 'true'
  const wrong = isReplay ? null : impossibleOps(flight, GRANTED_OPS, Number(sent.answer.body.operations_remaining))
  if (wrong !== null) books.fault(`${tenant.accountId} grant: ${wrong}`)
}

/** Ends the flight of what was not answered. */
export function isAnswered<B>(tenant: Tenant, flight: Flight, sent: Sent<B>): sent is Exclude<Sent<B>, string> {
  if (sent === 'unknown') tenant.model.doubt(flight)
  else if (sent === 'undone') tenant.model.end(flight, NOTHING)
  return typeof sent !== 'string'
}

export function refused(
  { books }: Deps,
  tenant: Tenant,
  flight: Flight,
  kind: string,
  answer: { status: number; body: unknown },
): void {
  tenant.model.end(flight, NOTHING)
  books.fault(`${tenant.accountId} ${kind}: ${answer.status} ${JSON.stringify(answer.body)}`)
}

const WEIGHTS: readonly (readonly [weight: number, Scenario])[] = [
  [22, clearVia('rest')],
  [9, clearVia('keyed')],
  [8, clearVia('mcp')],
  [17, reconcileVia('rest')],
  [5, reconcileVia('keyed')],
  [6, reconcileVia('mcp')],
  [4, release],
  [9, rateCheck],
  [6, idempotencyCheck],
  [6, read],
  [4, balance],
]
const TABLE = WEIGHTS.flatMap(([weight, scenario]) => Array<Scenario>(weight).fill(scenario))

/** What every account does, drawn by weight; what is left of the hundred is up to its kind. */
export function drawScenario(tenant: Tenant, random: () => number, special: Scenario): Scenario {
  if (random() < 0.04) return tenant.kind === 'quota' ? grant : special
  return pick(random, TABLE)
}
