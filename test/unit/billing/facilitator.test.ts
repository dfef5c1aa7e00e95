import { generateKeyPairSync, type KeyObject, verify } from 'node:crypto'
import { createServer, type IncomingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { PaymentPayload, PaymentRequirements } from '@x402/core/types'
import { describe, expect, it } from 'vitest'
import { cdpFacilitator, cdpToken, httpFacilitator, parseCdpSecret } from '../../../src/billing/facilitator.ts'

const edwards = generateKeyPairSync('ed25519')
const elliptic = generateKeyPairSync('ec', { namedCurve: 'P-256' })
const edwardsSecret = (() => {
  const { d, x } = edwards.privateKey.export({ format: 'jwk' })
  return Buffer.concat([Buffer.from(d!, 'base64url'), Buffer.from(x!, 'base64url')]).toString('base64')
})()
const ellipticSecret = elliptic.privateKey.export({ format: 'pem', type: 'sec1' }).toString()

const requirements = { network: 'eip155:8453' } as unknown as PaymentRequirements
const payload = { x402Version: 2, accepted: requirements, payload: {} } as unknown as PaymentPayload

function opened(token: string, key: KeyObject) {
  const [head = '', body = '', signature = ''] = token.split('.')
  const isGenuine = verify(
    key.asymmetricKeyType === 'ed25519' ? null : 'sha256',
    Buffer.from(`${head}.${body}`),
    { key, dsaEncoding: 'ieee-p1363' },
    Buffer.from(signature, 'base64url'),
  )
  const parsed = (part: string) => JSON.parse(Buffer.from(part, 'base64url').toString()) as Record<string, unknown>
  return { isGenuine, header: parsed(head), claims: parsed(body) }
}

describe("Coinbase's facilitator", () => {
  it.each([
    ['EdDSA', edwardsSecret, edwards.publicKey],
    ['ES256', ellipticSecret, elliptic.publicKey],
    ['ES256', ellipticSecret.replaceAll('\n', '\\n'), elliptic.publicKey],
  ])('gets a token of its own for each call (%s)', (alg, secret, publicKey) => {
    const uri = 'POST api.cdp.coinbase.com/platform/v2/x402/settle'
    const { isGenuine, header, claims } = opened(cdpToken('key-1', parseCdpSecret(secret), uri), publicKey)
    expect(isGenuine).toBe(true)
    expect(header).toEqual({ alg, kid: 'key-1', typ: 'JWT', nonce: expect.stringMatching(/^[0-9a-f]{32}$/) as string })
    expect(claims).toMatchObject({ sub: 'key-1', iss: 'cdp', aud: ['cdp_service'], uris: [uri] })
    const now = Date.now() / 1000
    expect(Math.abs((claims.nbf as number) - now)).toBeLessThan(5)
    expect((claims.exp as number) - (claims.nbf as number)).toBe(120)
  })

  it('is sent the token for the path that is called', async () => {
    const seen: { url: string; headers: IncomingHttpHeaders }[] = []
    const server = createServer((request, response) => {
      seen.push({ url: request.url ?? '', headers: request.headers })
      response
        .writeHead(200, { 'content-type': 'application/json' })
        .end(
          JSON.stringify(
            request.url?.endsWith('verify')
              ? { isValid: false, invalidReason: 'insufficient_funds' }
              : { success: true, transaction: `0x${'1'.repeat(64)}`, network: 'eip155:8453' },
          ),
        )
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const host = `127.0.0.1:${(server.address() as AddressInfo).port}`
    const facilitator = cdpFacilitator({ id: 'key-1', secret: edwardsSecret }, `http://${host}/platform/v2/x402`)
    expect(await facilitator.verify(payload, requirements)).toBe('insufficient_funds')
    expect(await facilitator.settle(payload, requirements)).toEqual({
      success: true,
      reason: 'settlement_failed',
      txHash: `0x${'1'.repeat(64)}`,
    })
    const uris = seen.map(({ url, headers }) => {
      const { isGenuine, claims } = opened((headers.authorization ?? '').replace('Bearer ', ''), edwards.publicKey)
      expect(isGenuine).toBe(true)
      return [url, claims.uris]
    })
    expect(uris).toEqual([
      ['/platform/v2/x402/verify', [`POST ${host}/platform/v2/x402/verify`]],
      ['/platform/v2/x402/settle', [`POST ${host}/platform/v2/x402/settle`]],
    ])
    await new Promise((resolve) => server.close(resolve))
  })

  it('refuses what is no key', () => {
    expect(() => parseCdpSecret('c2hvcnQ=')).toThrow()
    expect(() => parseCdpSecret('-----BEGIN EC PRIVATE KEY-----\nno\n-----END EC PRIVATE KEY-----')).toThrow()
  })
})

describe('what a facilitator says', () => {
  it('is passed on only when it is a plain code: an exception may hold a secret', async () => {
    const server = createServer((_request, response) => {
      const body = {
        success: false,
        errorReason: 'HTTP request failed. URL: https://node.example/secret-key',
        transaction: '',
        network: 'eip155:8453',
      }
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(body))
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const facilitator = httpFacilitator(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
    expect(await facilitator.settle(payload, requirements)).toEqual({ success: false, reason: 'settlement_failed', txHash: null })
    await new Promise((resolve) => server.close(resolve))
    await expect(facilitator.settle(payload, requirements)).rejects.toThrow()
  })
})
