// Plays the README's quick start against a running server: `npm run demo`. BASE_URL names another server than the one that
// `npm start` starts, and so does GVNR, which the README exports; GVNR_KEY uses an account you have instead of making one.
const BASE_URL = (process.env.BASE_URL ?? process.env.GVNR ?? 'http://127.0.0.1:8787').replace(/\/+$/, '')
const TIMEOUT_MS = 10_000
/** Fresh for each run, so that a second run on the same account starts with an unspent cap. */
const AGENT = `crawler-${Date.now().toString(36)}`
const MODEL = 'claude-sonnet-4-6'
const TOKENS = 2000

/** Something that the reader can act on; everything else is a bug of this script. */
class DemoError extends Error {}

// Piped into something that reads only the beginning: there is nobody left to print for.
process.stdout.on('error', (error) => {
  if (error.code !== 'EPIPE') throw error
  process.exit(0)
})

const print = (line = '') => process.stdout.write(`${line}\n`)
const step = (title) => print(`\n${title}`)
const dollars = (usd) => {
  const decimals = Math.max(2, (String(Math.abs(usd)).split('.')[1] ?? '').length)
  return `${usd < 0 ? '-' : ''}$${Math.abs(usd).toFixed(decimals)}`
}
const hidden = (key) => `${key.slice(0, 7)}…`

/** One request; the body of the answer, whatever its status. */
async function request(method, path, { key, body } = {}) {
  let response
  try {
    response = await fetch(BASE_URL + path, {
      method,
      headers: {
        ...(key && { authorization: `Bearer ${key}` }),
        ...(body && { 'content-type': 'application/json' }),
      },
      ...(body && { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(TIMEOUT_MS),
    })
  } catch (error) {
    if (error.name === 'TimeoutError') throw new DemoError(`${BASE_URL} did not answer within ${TIMEOUT_MS / 1000} seconds.`)
    throw new DemoError(
      `No server answers at ${BASE_URL} (${error.cause?.code ?? error.message}).\nStart one in another terminal with \`npm start\`, or name one: GVNR=http://… npm run demo`,
    )
  }
  try {
    return { status: response.status, body: await response.json() }
  } catch {
    throw new DemoError(`${method} ${BASE_URL}${path} answered ${response.status} and no JSON: is this a Gvnr server?`)
  }
}

/** The body of a request that has to succeed. */
async function call(method, path, options) {
  print(`   ${method} ${path}${options?.body ? ` ${JSON.stringify(options.body)}` : ''}`)
  const { status, body } = await request(method, path, options)
  if (status >= 400) throw new DemoError(`${method} ${path} answered ${status} ${body.error}: ${body.hint}`)
  return body
}

async function main() {
  print(`Gvnr demo against ${BASE_URL}`)

  step('1. An account. Its owner key is shown once.')
  const owner = process.env.GVNR_KEY ?? (await call('POST', '/v1/account')).api_key
  const account = await call('GET', '/v1/account', { key: owner })
  print(`   → account ${account.account_id}, key ${hidden(owner)}, ${account.operations_remaining} operations`)

  step(`2. A cap of $0.10 a day for the agent "${AGENT}"`)
  await call('PUT', '/v1/budget/envelope', { key: owner, body: { agent_id: AGENT, limit_usd: 0.1, window: 'daily' } })
  print('   → set')

  step('3. A key of its own for the agent. It may spend, but not lift its cap.')
  const { api_key: agent } = await call('POST', '/v1/account/keys', { key: owner, body: { agent_id: AGENT, scope: 'agent' } })
  const raise = { agent_id: AGENT, limit_usd: 100 }
  print(`   PUT /v1/budget/envelope ${JSON.stringify(raise)} with the agent's key`)
  const refused = await request('PUT', '/v1/budget/envelope', { key: agent, body: raise })
  print(`   → ${refused.status} ${refused.body.error}: ${refused.body.hint}`)
  if (refused.status !== 403) throw new DemoError('An agent lifted its own cap. That must not happen.')

  step(`4. The agent asks before each call: ${TOKENS.toLocaleString('en-US')} tokens of ${MODEL} cost $0.03`)
  const clearBody = { agent_id: AGENT, model: MODEL, estimated_tokens: TOKENS }
  const clear = () => call('POST', '/v1/budget/clear', { key: agent, body: clearBody })
  const cleared = []
  let answer = await clear()
  for (; answer.approved; answer = await clear()) {
    cleared.push(answer.clearance_id)
    print(`   → approved, ${dollars(answer.remaining_usd)} left, ${answer.operations_remaining} operations left`)
    if (cleared.length > 3) throw new DemoError('More was approved than the cap allows. That must not happen.')
  }
  if (answer.reason !== 'envelope_exceeded') throw new DemoError(`Denied as ${answer.reason}: ${answer.hint}`)
  print(
    `   → denied, ${answer.reason}: ${dollars(answer.remaining_usd)} left, enough for ${answer.max_affordable_tokens} tokens,`,
  )
  print(`     until ${new Date(answer.reset_at).toISOString()}`)

  step('5. The first call used less than estimated: reconcile it')
  const settled = await call('POST', '/v1/budget/reconcile', {
    key: agent,
    body: { agent_id: AGENT, clearance_id: cleared[0], actual_input_tokens: 300, actual_output_tokens: 1140 },
  })
  print(`   → drift ${dollars(settled.drift_usd)}, ${dollars(settled.remaining_usd)} left`)

  step('6. The third call was not made: give its clearance back')
  const released = await call('POST', '/v1/budget/release', { key: agent, body: { clearance_id: cleared[2] } })
  print(`   → ${dollars(released.released_usd)} given back, ${dollars(released.remaining_usd)} left`)

  step('7. What was denied fits now')
  const again = await clear()
  if (!again.approved) throw new DemoError(`Denied as ${again.reason}: ${again.hint}`)
  print(`   → approved, ${dollars(again.remaining_usd)} left`)

  step('8. Four approvals burned four operations; the denial, the settlement and the release burned none')
  const balance = await call('GET', '/v1/account/balance', { key: owner })
  print(`   → ${balance.operations_remaining} operations left`)
  print(`\nNext: ${BASE_URL}/docs, or in Claude Code:`)
  print(`  claude mcp add gvnr --transport http ${BASE_URL}/mcp --header "Authorization: Bearer bg_…"`)
}

try {
  await main()
} catch (error) {
  if (!(error instanceof DemoError)) throw error
  process.stderr.write(`\n${error.message}\n`)
  process.exitCode = 1
}
