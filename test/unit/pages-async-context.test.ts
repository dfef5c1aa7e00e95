import { AsyncLocalStorage } from 'node:async_hooks'
import { Hono } from 'hono'
import { expect, test, vi } from 'vitest'
import { mountPages } from '../../src/pages/mount.tsx'
import { createCatalogue } from '../../src/prices/catalogue.ts'

test('pages render without AsyncLocalStorage, which would slow down every promise of the process', async () => {
  const run = vi.spyOn(AsyncLocalStorage.prototype, 'run')
  const enter = vi.spyOn(AsyncLocalStorage.prototype, 'enterWith')
  const app = new Hono()
  const document = { openapi: '3.1.1', info: { title: 'Gvnr', version: '0' }, paths: {}, components: { schemas: {} }, tags: [] }
  const deps = { catalogue: createCatalogue(), document: () => document, origin: () => 'http://127.0.0.1', requestId: () => 'r' }
  const script = { text: async () => '', path: async () => '/assets/site.js' }
  mountPages(app, deps, { version: '0', trialOps: 25, script })
  for (const path of ['/', '/docs', '/nothing']) expect(await (await app.request(path)).text()).toContain('<html')
  expect(run).not.toHaveBeenCalled()
  expect(enter).not.toHaveBeenCalled()
  expect(process.getBuiltinModule).toBeTypeOf('function')
})
