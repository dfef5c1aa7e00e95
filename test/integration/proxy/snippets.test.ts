import { execFile } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Database, openDatabase } from '../../../src/db/client.ts'
import { createTestDatabase, type TestDatabase } from '../../support/databases.ts'
import { openProxy, type ProxyTest } from '../../support/proxy.ts'

const run = promisify(execFile)
const ROOT = join(import.meta.dirname, '../../..')
/** Inside the project, where the snippets find their packages. */
const FOLDER = join(ROOT, `.tmp/snippets-${process.pid}`)
const ADDRESS = 'http://127.0.0.1:8787'
const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8')

const documented = [...read('docs/proxy.md').matchAll(/```ts (\w+)\n([\s\S]*?)```/g)].map(([, name = '', code = '']) => ({
  name,
  code,
}))
const [, inReadme = ''] = /## Without asking[\s\S]*?```ts\n([\s\S]*?)```/.exec(read('README.md')) ?? []
/** Makes a call with each of the clients that the README constructs. */
const README_SNIPPET = `
import Anthropic from '@anthropic-ai/sdk'
import OpenAI from 'openai'
${inReadme}
const asked = { max_tokens: 500, messages: [{ role: 'user', content: 'Say hello.' }] }
console.log((await openai.chat.completions.create({ model: 'gpt-4o', ...asked })).choices[0].message.content)
console.log((await anthropic.messages.create({ model: 'claude-sonnet-4-6', ...asked })).content[0].text)
`

describe('the snippets of the documents', () => {
  let home: TestDatabase
  let database: Database
  let proxy: ProxyTest
  beforeAll(async () => {
    mkdirSync(FOLDER, { recursive: true })
    home = await createTestDatabase('postgres')
    database = await openDatabase(home as { url: string; dataDir: string })
    proxy = await openProxy(database)
  })
  afterAll(async () => {
    rmSync(FOLDER, { recursive: true, force: true })
    await proxy?.stop()
    await database?.close()
    await home?.drop()
  })

  it('are there', () => {
    expect(documented.map(({ name }) => name)).toEqual(['openai', 'anthropic', 'langchain', 'vercel'])
    expect(inReadme).toContain('new Anthropic(')
  })

  it.each([...documented, { name: 'README', code: README_SNIPPET }])('$name: works as pasted', async ({ name, code }) => {
    const { key } = await proxy.test.createKey(proxy.key, { name, scope: 'agent', agent_id: 'a' })
    const file = join(FOLDER, `${name}.mts`)
    writeFileSync(file, code.replaceAll(ADDRESS, proxy.origin))
    const env = { ...process.env, GVNR_KEY: key, LANGSMITH_TRACING: 'false' }
    const { stdout } = await run(process.execPath, ['--import', import.meta.resolve('tsx'), file], { env, timeout: 30_000 })
    const calls = ['vercel', 'README'].includes(name) ? 2 : 1
    expect(stdout).toBe('Hello there\n'.repeat(calls))
    expect((await proxy.endings()).slice(-calls)).toEqual(Array(calls).fill(expect.objectContaining({ end: 'complete' })))
    await proxy.isClean()
  })
})
