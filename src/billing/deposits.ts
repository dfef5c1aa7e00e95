import { ECDH } from 'node:crypto'
import { HDKey } from '@scure/bip32'
import { LRUCache } from 'lru-cache'
import type { Address } from 'viem'
import { publicKeyToAddress } from 'viem/utils'
import { atMost } from '../core/bounded.ts'

const CACHED_ADDRESSES = 10_000

/**
 * The two child numbers below DEPOSIT_XPUB of an account's own address: the 62 random bits of its id, 31 in each, so that no counter is
 * shared between accounts. Whoever holds the private half derives the key along the same path to sweep the address.
 */
export function depositPath(accountId: string): readonly [number, number] {
  const random = BigInt(`0x${accountId.replaceAll('-', '').slice(16)}`) & ((1n << 62n) - 1n)
  return [Number(random >> 31n), Number(random & ((1n << 31n) - 1n))]
}

/** Derives each account's own address from an extended public key (BIP-32, not hardened). No private key is ever here. */
export class DepositAddresses {
  readonly #parent: HDKey
  readonly #known = new LRUCache<string, Address>(atMost(CACHED_ADDRESSES))

  /** @throws when the text is no extended public key */
  constructor(xpub: string) {
    this.#parent = parseXpub(xpub)
  }

  /** The account's address in lower case. */
  addressOf(accountId: string): Address {
    const known = this.#known.get(accountId)
    if (known !== undefined) return known
    const address = addressAt(this.#parent, accountId)
    this.#known.set(accountId, address)
    return address
  }
}

/** @throws when the text is no extended public key; a private one is refused by name, since it must never be on a server */
export function parseXpub(xpub: string): HDKey {
  const key = HDKey.fromExtendedKey(xpub)
  if (key.privateKey !== null) throw new Error('this is an extended private key')
  return key
}

export function addressAt(parent: HDKey, accountId: string): Address {
  const [high, low] = depositPath(accountId)
  const child = parent.deriveChild(high).deriveChild(low)
  if (child.publicKey === null) throw new Error(`no key at m/${high}/${low}`)
  const point = ECDH.convertKey(child.publicKey, 'secp256k1', undefined, 'hex', 'uncompressed')
  return publicKeyToAddress(`0x${point.toString()}`).toLowerCase() as Address
}
