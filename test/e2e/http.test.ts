import { connect } from 'node:net'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Client } from '../support/client.ts'
import { createTestDatabase, type TestDatabase } from '../support/databases.ts'
import { type Server, startServer } from '../support/server.ts'

const QUIET_MS = 1_500
const CRLF = '\r\n'

type Response = { status: number; headers: string; body: string }

describe('bytes that are not quite HTTP', () => {
  let home: TestDatabase
  let server: Server
  let client: Client
  let key: string

  beforeAll(async () => {
    home = await createTestDatabase('postgres')
    server = await startServer({ databaseUrl: home.url })
    client = new Client(server.origin)
    key = (await client.createAccount(1000)).key
    await client.setEnvelope(key, { agent_id: 'a', limit_usd: 1 })
  })
  afterAll(async () => {
    client?.close()
    await server?.stop()
    await home?.drop()
  })

  /** Sends bytes and collects the answers until the server closes the connection or has been quiet for a while. */
  async function exchange(...parts: (string | Buffer)[]): Promise<{ responses: Response[]; text: string }> {
    const text = await new Promise<string>((resolve) => {
      const chunks: Buffer[] = []
      const socket = connect(server.port, '127.0.0.1')
      let timer: NodeJS.Timeout
      const finish = () => {
        clearTimeout(timer)
        socket.destroy()
        resolve(Buffer.concat(chunks).toString('latin1'))
      }
      const wait = () => {
        clearTimeout(timer)
        timer = setTimeout(finish, QUIET_MS)
      }
      socket.on('data', (chunk) => {
        chunks.push(chunk)
        wait()
      })
      socket.on('error', () => {})
      socket.on('close', finish)
      for (const part of parts) socket.write(typeof part === 'string' ? Buffer.from(part, 'latin1') : part)
      wait()
    })
    return { responses: responsesIn(text), text }
  }

  /** Answers one after the other; all of ours have a Content-Length or are sent in chunks. */
  function responsesIn(text: string): Response[] {
    const responses: Response[] = []
    for (let rest = text; rest !== ''; ) {
      const end = rest.indexOf(CRLF + CRLF)
      const status = /^HTTP\/1\.[01] (\d{3})/.exec(rest)?.[1]
      if (status === undefined || end === -1) throw new Error(`not a response: ${JSON.stringify(rest.slice(0, 200))}`)
      const headers = rest.slice(0, end)
      rest = rest.slice(end + 4)
      const isChunked = /^transfer-encoding: chunked$/im.test(headers)
      const length = isChunked ? rest.indexOf(`0${CRLF}${CRLF}`) + 5 : Number(/^content-length: (\d+)$/im.exec(headers)?.[1] ?? 0)
      responses.push({ status: Number(status), headers, body: isChunked ? '' : rest.slice(0, length) })
      rest = rest.slice(length)
    }
    return responses
  }

  const head = (line: string, ...headers: string[]) =>
    `${[line, 'Host: x', `Authorization: Bearer ${key}`, ...headers].join(CRLF)}${CRLF}${CRLF}`
  const CLEAR = '{"agent_id":"a","model":"gpt-4o","estimated_tokens":1}'
  const POST = 'POST /v1/budget/clear HTTP/1.1'
  const JSON_TYPE = 'Content-Type: application/json'
  const chunked = (body: string) => `${Buffer.byteLength(body).toString(16)}${CRLF}${body}${CRLF}0${CRLF}${CRLF}`
  /** A second request hidden in a body: it must never be answered as one. */
  const SMUGGLED = `GET /v1/account/keys HTTP/1.1${CRLF}Host: x${CRLF}X-Smuggled: 1${CRLF}${CRLF}`

  const cases: Record<string, () => (string | Buffer)[]> = {
    'Transfer-Encoding and Content-Length': () => [
      head(POST, JSON_TYPE, 'Content-Length: 5', 'Transfer-Encoding: chunked'),
      chunked(CLEAR),
      SMUGGLED,
    ],
    'Content-Length and Transfer-Encoding, zero chunk first': () => [
      head(POST, JSON_TYPE, `Content-Length: ${SMUGGLED.length + 5}`, 'Transfer-Encoding: chunked'),
      `0${CRLF}${CRLF}`,
      SMUGGLED,
    ],
    'two different Content-Lengths': () => [head(POST, JSON_TYPE, 'Content-Length: 2', `Content-Length: ${CLEAR.length}`), CLEAR],
    'two equal Content-Lengths': () => [
      head(POST, JSON_TYPE, `Content-Length: ${CLEAR.length}`, `Content-Length: ${CLEAR.length}`),
      CLEAR,
    ],
    'a list of Content-Lengths': () => [head(POST, JSON_TYPE, `Content-Length: ${CLEAR.length}, ${CLEAR.length}`), CLEAR],
    'a negative Content-Length': () => [head(POST, JSON_TYPE, 'Content-Length: -1'), CLEAR],
    'a hexadecimal Content-Length': () => [head(POST, JSON_TYPE, 'Content-Length: 0x10'), CLEAR],
    'a huge Content-Length': () => [head(POST, JSON_TYPE, 'Content-Length: 99999999999999999999'), CLEAR],
    'a large Content-Length': () => [head(POST, JSON_TYPE, 'Content-Length: 1000000000'), CLEAR],
    'an obscured Transfer-Encoding': () => [head(POST, JSON_TYPE, 'Transfer-Encoding: xchunked'), chunked(CLEAR), SMUGGLED],
    'Transfer-Encoding: identity': () => [head(POST, JSON_TYPE, 'Transfer-Encoding: identity'), CLEAR],
    'Transfer-Encoding: gzip, chunked': () => [head(POST, JSON_TYPE, 'Transfer-Encoding: gzip, chunked'), chunked(CLEAR)],
    'Transfer-Encoding: chunked, identity': () => [
      head(POST, JSON_TYPE, 'Transfer-Encoding: chunked, identity'),
      chunked(CLEAR),
      SMUGGLED,
    ],
    'Transfer-Encoding twice': () => [
      head(POST, JSON_TYPE, 'Transfer-Encoding: chunked', 'Transfer-Encoding: identity'),
      chunked(CLEAR),
      SMUGGLED,
    ],
    'Transfer-Encoding with a tab': () => [head(POST, JSON_TYPE, 'Transfer-Encoding:\tchunked'), chunked(CLEAR)],
    'Transfer-Encoding with a space before the colon': () => [
      head(POST, JSON_TYPE, 'Transfer-Encoding : chunked'),
      chunked(CLEAR),
      SMUGGLED,
    ],
    'a folded header': () => [head(POST, JSON_TYPE, `X-A: b${CRLF} Transfer-Encoding: chunked`), chunked(CLEAR)],
    'a bad chunk size': () => [head(POST, JSON_TYPE, 'Transfer-Encoding: chunked'), `zz${CRLF}${CLEAR}${CRLF}0${CRLF}${CRLF}`],
    'a chunk size that overflows': () => [
      head(POST, JSON_TYPE, 'Transfer-Encoding: chunked'),
      `fffffffffffffffff${CRLF}${CLEAR}`,
    ],
    'a chunk that is longer than it says': () => [
      head(POST, JSON_TYPE, 'Transfer-Encoding: chunked'),
      `2${CRLF}${CLEAR}${CRLF}0${CRLF}${CRLF}`,
    ],
    'a chunk extension of 20 KB': () => [
      head(POST, JSON_TYPE, 'Transfer-Encoding: chunked'),
      `2;${'x'.repeat(20_000)}${CRLF}{}${CRLF}0${CRLF}${CRLF}`,
    ],
    trailers: () => [
      head(POST, JSON_TYPE, 'Transfer-Encoding: chunked', 'Trailer: X-Api-Key'),
      `${CLEAR.length.toString(16)}${CRLF}${CLEAR}${CRLF}0${CRLF}Content-Length: 5${CRLF}${CRLF}`,
    ],
    'lines that end in LF only': () => [head(POST, JSON_TYPE, `Content-Length: ${CLEAR.length}`).replaceAll(CRLF, '\n'), CLEAR],
    'a bare CR in a header': () => [head(POST, JSON_TYPE, 'X-A: b\rTransfer-Encoding: chunked'), CLEAR],
    'a NUL in a header': () => [head(POST, JSON_TYPE, 'X-A: b\0c'), CLEAR],
    'a NUL in the path': () => [head('GET /v1/account\0 HTTP/1.1')],
    'a space in the path': () => [head('GET /v1/acc ount HTTP/1.1')],
    'raw UTF-8 in the path': () => [Buffer.from(head('GET /v1/budget/envelope/é💸 HTTP/1.1'), 'utf8')],
    'raw Latin-1 in the path': () => [head('GET /v1/budget/envelope/\xe9 HTTP/1.1')],
    'a path without a slash': () => [head('GET v1/account HTTP/1.1')],
    'a path of two slashes': () => [head('GET //v1/account HTTP/1.1')],
    'an absolute URL': () => [head('GET http://127.0.0.1/v1/account HTTP/1.1')],
    'an absolute URL of another host': () => [head('GET http://evil.example/v1/account HTTP/1.1')],
    'an absolute URL that is none': () => [head('GET http://[/v1/account HTTP/1.1')],
    'another scheme': () => [head('GET file:///v1/account HTTP/1.1')],
    'an asterisk': () => [head('OPTIONS * HTTP/1.1')],
    CONNECT: () => [head('CONNECT example.com:443 HTTP/1.1')],
    TRACE: () => [head('TRACE /v1/account HTTP/1.1')],
    HEAD: () => [head('HEAD /v1/account HTTP/1.1', 'Connection: close')],
    PATCH: () => [head('PATCH /v1/account HTTP/1.1')],
    'an unknown method': () => [head('BREW /v1/account HTTP/1.1')],
    'an Upgrade': () => [
      head('GET /v1/account HTTP/1.1', 'Connection: Upgrade', 'Upgrade: h2c', 'HTTP2-Settings: AAMAAABkAAQAAP__'),
    ],
    'an Upgrade to WebSocket': () => [
      head(
        'GET /v1/account HTTP/1.1',
        'Connection: Upgrade',
        'Upgrade: websocket',
        'Sec-WebSocket-Version: 13',
        'Sec-WebSocket-Key: x',
      ),
    ],
    'Expect: 100-continue': () => [head(POST, JSON_TYPE, 'Expect: 100-continue', `Content-Length: ${CLEAR.length}`), CLEAR],
    'an unknown Expect': () => [head(POST, JSON_TYPE, 'Expect: everything', `Content-Length: ${CLEAR.length}`), CLEAR],
    'HTTP/1.0': () => [`GET /v1/account HTTP/1.0${CRLF}${CRLF}`],
    'HTTP/0.9': () => [`GET /v1/account${CRLF}`],
    'HTTP/2 preface': () => [`PRI * HTTP/2.0${CRLF}${CRLF}SM${CRLF}${CRLF}`],
    'HTTP/9.9': () => [head('GET /v1/account HTTP/9.9')],
    'a TLS hello': () => [Buffer.from('160301020001fc03', 'hex'), Buffer.alloc(500, 7)],
    'no Host': () => [`GET /v1/account HTTP/1.1${CRLF}Authorization: Bearer ${key}${CRLF}${CRLF}`],
    'two Hosts': () => [head('GET /v1/account HTTP/1.1', 'Host: y')],
    'a Host that is none': () => [`GET /v1/account HTTP/1.1${CRLF}Host: a b/c?d#e@f${CRLF}${CRLF}`],
    'an empty Host': () => [`GET /v1/account HTTP/1.1${CRLF}Host:${CRLF}Authorization: Bearer ${key}${CRLF}${CRLF}`],
    'a header without a name': () => [head('GET /v1/account HTTP/1.1', ': x')],
    'a header without a colon': () => [head('GET /v1/account HTTP/1.1', 'nonsense')],
    'two thousand headers': () => [head('GET /v1/account HTTP/1.1', ...Array.from({ length: 2000 }, (_, n) => `X-${n}: y`))],
    'a header of 20 KB': () => [head('GET /v1/account HTTP/1.1', `X-A: ${'y'.repeat(20_000)}`)],
    'a URL of 20 KB': () => [head(`GET /v1/budget/envelope/${'x'.repeat(20_000)} HTTP/1.1`)],
    'a query of 15 KB': () => [head(`GET /v1/account?${'a=b&'.repeat(3700)} HTTP/1.1`)],
    'a GET with a body': () => [head('GET /v1/account HTTP/1.1', `Content-Length: ${SMUGGLED.length}`), SMUGGLED],
    'a DELETE with a body': () => [head('DELETE /v1/budget/envelope/zz HTTP/1.1', JSON_TYPE, 'Content-Length: 2'), '{}'],
    'a POST with no body and no length': () => [head(POST, JSON_TYPE)],
    'too much, declared': () => [head(POST, JSON_TYPE, 'Content-Length: 70000'), `{"x":"${'y'.repeat(69_990)}"}`],
    'too much, in chunks': () => [head(POST, JSON_TYPE, 'Transfer-Encoding: chunked'), chunked(`{"x":"${'y'.repeat(69_990)}"}`)],
    'far too much, in chunks': () => [
      head(POST, JSON_TYPE, 'Transfer-Encoding: chunked'),
      ...Array.from({ length: 100 }, () => `10000${CRLF}${'y'.repeat(65_536)}${CRLF}`),
    ],
    'a byte order mark': () => [head(POST, JSON_TYPE, `Content-Length: ${CLEAR.length + 3}`), Buffer.from(`\ufeff${CLEAR}`)],
    'UTF-16': () => [
      head(POST, 'Content-Type: application/json; charset=utf-16', `Content-Length: ${CLEAR.length * 2}`),
      Buffer.from(CLEAR, 'utf16le'),
    ],
    'a body that is not UTF-8': () => [
      head(POST, JSON_TYPE, 'Content-Length: 57'),
      '{"agent_id":"\xff\xfe\xfa","model":"gpt-4o","estimated_tokens":1}',
    ],
    'a compressed body': () => [
      head(POST, JSON_TYPE, 'Content-Encoding: gzip', 'Content-Length: 4'),
      Buffer.from('1f8b0800', 'hex'),
    ],
    'three requests at once': () => [
      head('GET /v1/account HTTP/1.1'),
      head('GET /v1/account/balance HTTP/1.1'),
      head('GET /v1/none HTTP/1.1'),
    ],
    'a request and then garbage': () => [head('GET /v1/account HTTP/1.1'), Buffer.alloc(5000, 0xfe)],
    'nothing but garbage': () => [Buffer.from(Array.from({ length: 3000 }, (_, n) => (n * 7919) % 256))],
    'nothing but line ends': () => [CRLF.repeat(2000)],
  }

  it.each(Object.entries(cases))('%s', async (_name, parts) => {
    const { responses, text } = await exchange(...parts())
    for (const { status, headers, body } of responses) {
      expect(status).toBeLessThan(500)
      expect(headers).not.toMatch(/^x-smuggled/im)
      // Node's own refusal of a request without Host has no body, and pages answer as pages.
      if (status < 400 || body === '' || body.startsWith('<!doctype html>')) continue
      expect(headers).toMatch(/^content-type: application\/json/im)
      expect(JSON.parse(body)).toEqual(
        expect.objectContaining({ error: expect.any(String), hint: expect.any(String), retryable: expect.any(Boolean) }),
      )
    }
    expect(text).not.toContain('"keys":[')
    expect((await client.send({ method: 'GET', path: '/v1/account', key })).status).toBe(200)
  })

  it.each([
    ['an unknown path', 'GET /v1/none HTTP/1.1', 404],
    ['an unknown method', 'PATCH /v1/account HTTP/1.1', 405],
    ['a malformed escape', 'GET /v1/budget/envelope/%zz HTTP/1.1', 404],
    ['the base itself', 'GET /v1 HTTP/1.1', 404],
    ['the other base', 'GET /api/v1/none HTTP/1.1', 404],
    ['a missing Host', `GET /v1/account HTTP/1.0`, 401],
  ])('answers %s with an error body', async (_name, line, status) => {
    const { responses } = await exchange(
      `${line}${CRLF}Host: x${CRLF}${status === 401 ? '' : `Authorization: Bearer ${key}${CRLF}`}${CRLF}`,
    )
    expect(responses).toHaveLength(1)
    expect(responses[0]!.status).toBe(status)
    expect(JSON.parse(responses[0]!.body)).toEqual(
      expect.objectContaining({ error: expect.any(String), hint: expect.any(String), retryable: expect.any(Boolean) }),
    )
    expect(responses[0]!.headers).toMatch(/^x-request-id: /im)
  })

  it.each([
    ['a header that is too long', `GET /v1/account HTTP/1.1${CRLF}X-A: ${'y'.repeat(20_000)}`, 431],
    ['a request that cannot be read', 'GET /v1/acc ount HTTP/1.1', 400],
    ['no Host', 'GET /v1/account HTTP/1.1', 400],
  ])('ends the connection after %s', async (_name, line, status) => {
    const { responses } = await exchange(`${line}${CRLF}${CRLF}`, head('GET /v1/account HTTP/1.1'))
    expect(responses.map((response) => response.status)).toEqual([status])
    if (_name === 'no Host') return
    expect(JSON.parse(responses[0]!.body)).toEqual({
      error: status === 431 ? 'headers_too_large' : 'malformed_request',
      hint: expect.any(String),
      retryable: false,
    })
  })

  it('says what it does not understand in Expect', async () => {
    const { responses } = await exchange(head(POST, JSON_TYPE, 'Expect: miracles', `Content-Length: ${CLEAR.length}`), CLEAR)
    expect(responses[0]).toMatchObject({ status: 417, body: expect.stringContaining('"error":"expectation_failed"') })
  })

  it('refuses too much with 413 and a body, also in chunks', async () => {
    for (const name of ['too much, declared', 'too much, in chunks', 'far too much, in chunks']) {
      const { responses } = await exchange(...cases[name]!())
      expect({ name, status: responses[0]?.status, error: responses[0] && JSON.parse(responses[0].body).error }).toEqual({
        name,
        status: 413,
        error: 'payload_too_large',
      })
    }
  })

  it('decides nothing for a request that was cut off', async () => {
    const before = await client.send({ method: 'GET', path: '/v1/account/balance', key })
    await exchange(head(POST, JSON_TYPE, `Content-Length: ${CLEAR.length}`), CLEAR.slice(0, -1))
    await exchange(head(POST, JSON_TYPE, 'Transfer-Encoding: chunked'), `${CLEAR.length.toString(16)}${CRLF}${CLEAR}${CRLF}`)
    const after = await client.send({ method: 'GET', path: '/v1/account/balance', key })
    expect(after.body).toEqual(before.body)
  })

  it('has logged no failure of its own', () => {
    expect(server.logs()).not.toContain('unexpected failure')
  })
})
