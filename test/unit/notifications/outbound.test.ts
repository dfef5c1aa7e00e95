import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { allowedUrl, BlockedAddressError, isPublicAddress, Outbound } from '../../../src/notifications/outbound.ts'

describe('public addresses', () => {
  it.each([
    '127.0.0.1',
    '127.255.255.254',
    '0.0.0.0',
    '10.1.2.3',
    '172.16.0.1',
    '172.31.255.255',
    '192.168.1.1',
    '169.254.169.254', // cloud metadata
    '100.64.0.1', // carrier-grade NAT
    '192.0.0.1',
    '192.0.2.1',
    '198.18.0.1',
    '224.0.0.1',
    '240.0.0.1',
    '255.255.255.255',
    '::',
    '::1',
    '::ffff:127.0.0.1',
    '::ffff:a9fe:a9fe',
    'fe80::1',
    'fc00::1',
    'fd12:3456::1',
    'ff02::1',
    '64:ff9b::7f00:1', // NAT64 of loopback
    '2002:7f00:1::', // 6to4 of loopback
    '2001:db8::1',
    '::7f00:1', // the old spelling ::127.0.0.1
    '4000::1', // given to nobody
    'not an address',
  ])('refuses %s', (address) => {
    expect(isPublicAddress(address)).toBe(false)
  })

  it.each(['1.1.1.1', '93.184.215.14', '2606:4700:4700::1111'])('accepts %s', (address) => {
    expect(isPublicAddress(address)).toBe(true)
  })
})

/** Spellings of addresses that must not be reached, as a customer might enter them. */
const BLOCKED = [
  'https://127.0.0.1/',
  'https://127.1/',
  'https://2130706433/',
  'https://0x7f000001/',
  'https://0177.0.0.1/',
  'https://0/',
  'https://[::1]/',
  'https://[::ffff:127.0.0.1]/',
  'https://[::127.0.0.1]/',
  'https://[0:0:0:0:0:ffff:7f00:1]/',
  'https://169.254.169.254/latest/meta-data/',
  'https://①②⑦.⓪.⓪.①/',
  'https://10.0.0.1:8443/x',
  ' https://example.com/',
  'https://exa\nmple.com/',
  'https://example.com/\0',
  'https://example.com/\ud800',
  'http://example.com/',
  'ftp://example.com/',
  'file:///etc/passwd',
  'https://user:password@example.com/',
  'https://user@example.com/',
  'https://',
  'not a url',
  `https://example.com/${'x'.repeat(2048)}`,
]

describe('addresses customers choose', () => {
  it.each(BLOCKED)('refuses %s', (url) => {
    expect(allowedUrl(url, false)).toBeNull()
  })

  it('accepts an https address of a public host', () => {
    expect(allowedUrl('https://hooks.example.com/services/T0/B0/x?y=1', false)?.hostname).toBe('hooks.example.com')
    expect(allowedUrl('https://1.1.1.1/', false)).not.toBeNull()
  })

  it('accepts plain http and private hosts only when told to', () => {
    expect(allowedUrl('http://127.0.0.1:3000/', true)?.port).toBe('3000')
    expect(allowedUrl('ftp://127.0.0.1/', true)).toBeNull()
  })
})

describe('requests to addresses customers choose', () => {
  const hits: string[] = []
  let server: Server
  let origin = ''

  beforeAll(async () => {
    server = createServer((request, response) => {
      hits.push(request.url ?? '')
      if (request.url === '/redirect') response.writeHead(307, { location: `${origin}/target` }).end()
      else if (request.url === '/slow') return
      else if (request.url === '/huge') {
        response.writeHead(200)
        const piece = Buffer.alloc(256 * 1024)
        const write = () => response.write(piece, () => response.destroyed || setImmediate(write))
        write()
      } else response.writeHead(200, { 'retry-after': '7' }).end('ok')
    }).listen(0, '127.0.0.1')
    await new Promise((resolve) => server.once('listening', resolve))
    origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  })
  afterAll(() => {
    server.closeAllConnections()
    server.close()
  })

  it.each(BLOCKED.filter((url) => url.startsWith('https:')))('does not reach %s', async (url) => {
    const outbound = new Outbound({ allowPrivate: false, timeout_ms: 1000 })
    await expect(outbound.postJson(url, '{}', { priority: 'ordinary' })).rejects.toThrow(BlockedAddressError)
    await outbound.close()
  })

  it('checks what a name resolves to when it connects', async () => {
    const outbound = new Outbound({ allowPrivate: false, timeout_ms: 1000 })
    await expect(outbound.postJson('https://localhost/', '{}', { priority: 'ordinary' })).rejects.toThrow(BlockedAddressError)
    await outbound.close()
    expect(hits).toEqual([])
  })

  it('follows no redirect', async () => {
    const outbound = new Outbound({ allowPrivate: true })
    expect(await outbound.postJson(`${origin}/redirect`, '{}', { priority: 'ordinary' })).toMatchObject({ status: 307 })
    expect(hits.splice(0)).toEqual(['/redirect'])
    await outbound.close()
  })

  it('waits only so long', async () => {
    const outbound = new Outbound({ allowPrivate: true, timeout_ms: 200 })
    await expect(outbound.postJson(`${origin}/slow`, '{}', { priority: 'ordinary' })).rejects.toThrow(/timeout/i)
    await outbound.close()
  })

  it('reads only so much of an answer', async () => {
    const outbound = new Outbound({ allowPrivate: true, timeout_ms: 5000 })
    const started = performance.now()
    expect(await outbound.postJson(`${origin}/huge`, '{}', { priority: 'ordinary' })).toMatchObject({ status: 200 })
    expect(performance.now() - started).toBeLessThan(4000)
    await outbound.close()
  })

  it('passes on how long the receiver wants to be left alone', async () => {
    const outbound = new Outbound({ allowPrivate: true })
    expect(await outbound.postJson(`${origin}/`, '{}', { priority: 'ordinary' })).toEqual({ status: 200, retryAfter_ms: 7000 })
    await outbound.close()
  })
})
