import { DrizzleQueryError } from 'drizzle-orm'
import { createPublicClient, http } from 'viem'
import { describe, expect, it } from 'vitest'
import { DomainError } from '../../../src/core/errors.ts'
import { createLog } from '../../../src/core/log.ts'

/** The one line that logging an error writes, as it is and parsed: a line that is no JSON fails the test. */
function logged(error: unknown): { line: string; err: Record<string, unknown> } {
  const lines: string[] = []
  createLog('info', (line) => lines.push(line)).error({ err: error }, 'it failed')
  const [line = ''] = lines
  return { line, err: (JSON.parse(line) as { err: Record<string, unknown> }).err }
}

describe('a logged error', () => {
  it.each([
    ['plain', 'a name'],
    ['a quote', 'My "prod" hook'],
    ['what looks like JSON', '","level":10,"msg":"forged'],
    ['what looks like the stack', 'x\n    at y (z:1:1)'],
    ['an escape', '\\'],
  ])('keeps no value of a failed query, after a value with %s', (_, value) => {
    const failed = new DrizzleQueryError('insert into endpoints values ($1, $2)', [value, 'whsec_secret'], new Error('boom'))
    for (const error of [failed, new Error('outer', { cause: failed }), new DomainError('rpc_error', { cause: failed })]) {
      const { line, err } = logged(error)
      expect(line).not.toContain('whsec_secret')
      expect(line).not.toContain('forged')
      expect(err.message).toContain('boom')
      expect(err.stack).toContain('log.test.ts')
    }
    expect(logged(failed).err).toMatchObject({
      type: 'DrizzleQueryError',
      message: expect.stringContaining('insert into endpoints'),
    })
  })

  it('keeps no field that a library attached, but the code', () => {
    const refused = Object.assign(new Error('violates a check'), {
      code: '23514',
      detail: 'Failing row contains (whsec_secret).',
    })
    const { line, err } = logged(refused)
    expect(line).not.toContain('whsec_secret')
    expect(err).toMatchObject({ type: 'Error', message: 'violates a check', code: '23514' })
  })

  it('says which node failed without the key in its address', async () => {
    const client = createPublicClient({
      transport: http('http://user:pass@127.0.0.1:1/v2/node-key?key=node-key', { retryCount: 0 }),
    })
    const failure = await client.getBlockNumber().then(
      () => null,
      (cause: unknown) => new DomainError('rpc_error', { cause }),
    )
    const { line, err } = logged(failure)
    expect(line).not.toMatch(/node-key|pass/)
    expect(err.message).toContain('URL: http://127.0.0.1:1/[redacted]')
  })
})
