import type { paths } from '../../src/client/schema.ts'

type Method = 'get' | 'put' | 'post' | 'delete'
type Operations = { [Path in keyof paths]: { [M in Method]: NonNullable<paths[Path][M]> } }
type PathsWith<M extends Method> = { [Path in keyof paths]: [Operations[Path][M]] extends [never] ? never : Path }[keyof paths]

type BodyOf<O> = O extends { requestBody: { content: { 'application/json': infer Body } } } ? Body : undefined
type PathParametersOf<O> = O extends { parameters: { path: infer Parameters } } ? Parameters : undefined
type JsonOf<R> = R extends { content: { 'application/json': infer Body } } ? Body : never
type SuccessOf<R> = JsonOf<R[keyof R & (200 | 201)]>
type FailureOf<R> = JsonOf<R[Exclude<keyof R, 200 | 201>]>
type Responses<O> = O extends { responses: infer R } ? R : never

type Present<Name extends string, Value> = [Value] extends [undefined] ? { [N in Name]?: never } : { [N in Name]: Value }
type Input<O> = Present<'path', PathParametersOf<O>> & Present<'body', BodyOf<O>> & { headers?: Record<string, string> }
type Output<O> =
  | { readonly ok: true; readonly status: number; readonly data: SuccessOf<Responses<O>> }
  | { readonly ok: false; readonly status: number; readonly error: FailureOf<Responses<O>> }

export type Client = {
  [M in Method]: <Path extends PathsWith<M>>(
    path: Path,
    input: Input<Operations[Path][M]>,
  ) => Promise<Output<Operations[Path][M]>>
}

/** A client typed by openapi.json alone: what a user gets from `npx openapi-typescript`. `send` is `fetch` or the app itself. */
export function createClient(send: (path: string, init: RequestInit) => Promise<Response>, apiKey?: string): Client {
  const call =
    (method: Method) =>
    async (path: string, input: { path?: object; body?: unknown; headers?: Record<string, string> }): Promise<never> => {
      const url = Object.entries(input.path ?? {}).reduce(
        (filled, [name, value]) => filled.replace(`{${name}}`, encodeURIComponent(String(value))),
        path,
      )
      const response = await send(url, {
        method: method.toUpperCase(),
        headers: {
          ...(apiKey !== undefined && { authorization: `Bearer ${apiKey}` }),
          ...(input.body !== undefined && { 'content-type': 'application/json' }),
          ...input.headers,
        },
        ...(input.body !== undefined && { body: JSON.stringify(input.body) }),
      })
      const body: unknown = await response.json()
      const result = { ok: response.ok, status: response.status, ...(response.ok ? { data: body } : { error: body }) }
      // The document says which body belongs to which path; this is the one place where it is believed.
      return result as never
    }
  return { get: call('get'), put: call('put'), post: call('post'), delete: call('delete') } as Client
}
