import type { Hono } from 'hono'
import type { PaymentTerms } from '../billing/x402.ts'
import { DomainError } from '../core/errors.ts'
import type { Operation } from '../core/operation.ts'
import {
  clientAddress,
  errorResponse,
  type HttpContext,
  type HttpEnv,
  jsonResponse,
  loggedPath,
  readJson,
  requestIdOf,
  traceOf,
} from './http.ts'
import { BASES, honoPath, isObject, queryOf, type RestDeps, type RestOptions } from './rest.ts'

export type X402Options = RestOptions & { readonly publicUrl: string | undefined }

const MAX_HEADER = 32 * 1024
const encode = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64')

/**
 * Routes of the operations that are paid for over x402. Both versions of the protocol are answered on the same path: the terms go in
 * `PAYMENT-REQUIRED` for version 2 and in the body for version 1, a payment comes in `PAYMENT-SIGNATURE` or `X-PAYMENT`, the receipt goes in
 * `PAYMENT-RESPONSE` and `X-PAYMENT-RESPONSE`. Mounted before the other routes.
 */
export function mountX402<D>(app: Hono<HttpEnv>, deps: RestDeps<D>, options: X402Options): void {
  for (const operation of deps.operations)
    for (const base of BASES)
      app.on(operation.method.toUpperCase(), base + honoPath(operation.path), handlerOf(operation, deps, options))
}

function handlerOf<D>(operation: Operation<D>, { execute, auth, log }: RestDeps<D>, options: X402Options) {
  return async (c: HttpContext): Promise<Response> => {
    const id = requestIdOf(c)
    try {
      const { caller, bearer } = await auth.authenticate(operation.access, {
        header: (name) => c.req.header(name),
        url: c.req.url,
        address: () => clientAddress(c, options.trustedProxies),
      })
      const body = await readJson(c, options.bodyLimit_bytes)
      const payment = paymentOf(c)
      const input = isObject(body)
        ? { ...body, ...picked(queryOf(c), operation.query), ...c.req.param(), ...(payment !== undefined && { payment }) }
        : body
      const result = await execute(
        operation,
        { caller, bearer, ip: clientAddress(c, options.trustedProxies), trace: traceOf(c) },
        input,
      )
      log.debug({ request_id: id, method: c.req.method, path: loggedPath(c.req.url), status: result.status }, 'request')
      return jsonResponse(result.status, result.body, id, receiptHeaders(result.body))
    } catch (error) {
      const response =
        error instanceof DomainError && isTerms(error.details.terms)
          ? termsResponse(error, error.details.terms, id, resourceOf(c, options.publicUrl))
          : errorResponse(error, id, log)
      log.debug({ request_id: id, method: c.req.method, path: loggedPath(c.req.url), status: response.status }, 'request')
      return response
    }
  }
}

/** The payment that a header carries, decoded; an unreadable one becomes null, which no schema accepts. */
function paymentOf(c: HttpContext): unknown {
  const header = c.req.header('payment-signature') ?? c.req.header('x-payment')
  if (header === undefined) return undefined
  if (header.length > MAX_HEADER) throw new DomainError('payload_too_large')
  try {
    return JSON.parse(Buffer.from(header, 'base64').toString('utf8')) as unknown
  } catch {
    return null
  }
}

const picked = (query: Record<string, string>, names: readonly string[] = []): Record<string, string> =>
  Object.fromEntries(Object.entries(query).filter(([name]) => names.includes(name)))

const isTerms = (terms: unknown): terms is PaymentTerms => isObject(terms) && typeof terms.payTo === 'string'

/** The address that is paid for, without the key that may be in it: clients and facilitators keep it. */
function resourceOf(c: HttpContext, publicUrl: string | undefined): string {
  const url = new URL(c.req.url)
  url.searchParams.delete('api_key')
  return `${publicUrl ?? url.origin}${url.pathname}${url.search}`
}

function termsResponse(error: DomainError, { v1Network, ...terms }: PaymentTerms, id: string, url: string): Response {
  const { terms: _terms, ...body } = error.toBody() as Record<string, unknown>
  const description = 'Gvnr governance operations'
  const mimeType = 'application/json'
  const required = { x402Version: 2, error: error.code, resource: { url, description, mimeType }, accepts: [terms] }
  const v1 = {
    scheme: terms.scheme,
    network: v1Network,
    maxAmountRequired: terms.amount,
    resource: url,
    description,
    mimeType,
    payTo: terms.payTo,
    maxTimeoutSeconds: terms.maxTimeoutSeconds,
    asset: terms.asset,
    extra: terms.extra,
  }
  const headers: Record<string, string> = { 'PAYMENT-REQUIRED': encode(required) }
  if (error.code === 'payment_failed') {
    const refused = { success: false, errorReason: error.details.reason, transaction: '' }
    headers['PAYMENT-RESPONSE'] = encode({ ...refused, network: terms.network })
    headers['X-PAYMENT-RESPONSE'] = encode({ ...refused, network: v1Network })
  }
  return jsonResponse(error.status, { ...body, x402Version: 1, accepts: [v1] }, id, headers)
}

const V1_NETWORK: Record<string, string> = { 'eip155:8453': 'base', 'eip155:84532': 'base-sepolia' }

function receiptHeaders(body: Record<string, unknown>): Record<string, string> {
  if (typeof body.tx_hash !== 'string' || typeof body.network !== 'string') return {}
  const receipt = { success: true, transaction: body.tx_hash, payer: body.payer }
  return {
    'PAYMENT-RESPONSE': encode({ ...receipt, network: body.network }),
    'X-PAYMENT-RESPONSE': encode({ ...receipt, network: V1_NETWORK[body.network] ?? body.network }),
  }
}
