import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { errorCodes, statusOf } from '../../src/core/errors.ts'
import { operations } from '../../src/operations.ts'
import { examples } from '../../src/transport/examples.ts'
import { openApiDocument, openApiText } from '../../src/transport/openapi.ts'
import { VERSION } from '../../src/version.ts'

const read = (path: string): string => readFileSync(join(import.meta.dirname, '../..', path), 'utf8')

const document = openApiDocument(operations, { version: VERSION })
const described = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
)

describe('openapi.json', () => {
  it('is what the operations generate', () => {
    expect(read('openapi.json')).toBe(openApiText(document))
  })

  it('has the version of package.json', () => {
    expect(document.info.version).toBe((JSON.parse(read('package.json')) as { version: string }).version)
  })

  it('has every operation once, under its name', () => {
    const expected = operations.map(({ name, method, path }) => `${name} ${method} ${path}`)
    expect(described.map(({ operation, method, path }) => `${operation.operationId} ${method} ${path}`).sort()).toEqual(
      expected.sort(),
    )
    expect(new Set(operations.map(({ name }) => name)).size).toBe(operations.length)
  })

  it('says of every field what each operation takes, and where', () => {
    for (const { name, input } of operations) {
      const found = described.find(({ operation }) => operation.operationId === name)?.operation
      const parameters = (found?.parameters ?? [])
        .filter((parameter) => parameter.in !== 'header')
        .map((parameter) => parameter.name)
      const body = Object.keys(found?.requestBody?.content['application/json'].schema.properties ?? {})
      expect([...parameters, ...body].sort(), name).toEqual(Object.keys(input.shape).sort())
    }
  })

  it('puts every error code under the status it is answered with', () => {
    const seen = new Set<string>()
    for (const { operation } of described) {
      for (const [status, response] of Object.entries(operation.responses)) {
        for (const code of response['x-error-codes'] ?? []) {
          const { errorStatus } = operations.find(({ name }) => name === operation.operationId)!
          expect(errorStatus?.[code] ?? statusOf(code), `${operation.operationId} ${code}`).toBe(Number(status))
          seen.add(code)
        }
      }
    }
    // Answered before there is an operation: by the HTTP parser and the router (paths that exist with another method).
    expect(errorCodes.filter((code) => !seen.has(code))).toEqual([
      'malformed_request',
      'headers_too_large',
      'request_timeout',
      'expectation_failed',
      'method_not_allowed',
      'stopping',
    ])
  })

  it('lets results gain fields', () => {
    for (const { name } of operations) {
      const schema =
        document.components.schemas[
          `${name
            .split('_')
            .map((word) => word[0]!.toUpperCase() + word.slice(1))
            .join('')}Result`
        ]
      expect(schema, name).toBeDefined()
      expect(JSON.stringify(schema), name).not.toContain('"additionalProperties":false')
    }
  })

  it('asks for a key exactly where one is needed', () => {
    for (const { name, access } of operations) {
      const operation = described.find((entry) => entry.operation.operationId === name)!.operation
      if (access.kind === 'key') expect(operation['x-scopes'], name).toEqual(access.scopes)
      expect(operation.security, name).toEqual({ key: undefined, public: [], admin: [{ adminSecret: [] }] }[access.kind])
    }
  })
})

describe('the examples', () => {
  it('cover every operation and nothing else', () => {
    expect(Object.keys(examples).sort()).toEqual(operations.map(({ name }) => name).sort())
  })

  it.each(operations.map((operation) => [operation.name, operation] as const))('%s: are valid', (name, operation) => {
    const { request = {}, response } = examples[name]!
    // A field that the schema does not know is dropped by parsing, and so shows as a difference.
    expect(operation.input.parse(request)).toEqual(request)
    expect(operation.output.parse(response)).toEqual(response)
    expect(JSON.stringify(request)).not.toContain("'")
  })
})
