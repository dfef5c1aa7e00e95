import type { SecretBox } from '../core/secrets.ts'
import type { Endpoint } from './store.ts'

/** What is a credential of an endpoint: its secret, and the address where that alone lets one post there. */
const hasSecretTarget = (kind: Endpoint['kind']): boolean => kind === 'slack' || kind === 'discord'
type Parts = Pick<Endpoint, 'accountId' | 'endpointId' | 'kind'>
const nameOf = ({ accountId, endpointId }: Parts, field: string): string => `endpoint ${accountId} ${endpointId} ${field}`

/** Endpoints as they are stored: their credentials sealed where the operator has set a key. */
export class EndpointSealing {
  readonly #box: SecretBox

  constructor(box: SecretBox) {
    this.#box = box
  }

  seal<C extends { readonly target?: string; readonly secret?: string | null }>(of: Parts, change: C): C {
    const { target, secret } = change
    return {
      ...change,
      ...(target !== undefined && hasSecretTarget(of.kind) && { target: this.#box.seal(target, nameOf(of, 'target')) }),
      ...(typeof secret === 'string' && { secret: this.#box.seal(secret, nameOf(of, 'secret')) }),
    }
  }

  /** @throws when the key it was sealed with is no longer configured */
  open<E extends Parts & Pick<Endpoint, 'target' | 'secret'>>(endpoint: E): E {
    return {
      ...endpoint,
      target: this.#box.open(endpoint.target, nameOf(endpoint, 'target')),
      secret: endpoint.secret === null ? null : this.#box.open(endpoint.secret, nameOf(endpoint, 'secret')),
    }
  }

  /** For lists, which go on when the key of one is gone. */
  openOrHide(endpoint: Endpoint): Endpoint {
    try {
      return this.open(endpoint)
    } catch {
      return { ...endpoint, ...(hasSecretTarget(endpoint.kind) && { target: '' }), secret: null }
    }
  }
}
