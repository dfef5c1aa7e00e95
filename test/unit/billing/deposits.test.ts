import { HDKey } from '@scure/bip32'
import { toHex } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { describe, expect, it } from 'vitest'
import { DepositAddresses, depositPath, parseXpub } from '../../../src/billing/deposits.ts'
import { uuidv7 } from '../../../src/core/ids.ts'

const parent = HDKey.fromMasterSeed(new Uint8Array(32).fill(3))

describe('deposit addresses', () => {
  it('are those of the private half, derived along the same path', () => {
    const deposits = new DepositAddresses(parent.publicExtendedKey)
    for (let index = 0; index < 20; index++) {
      const accountId = uuidv7(Date.now())
      const [high, low] = depositPath(accountId)
      const { privateKey } = parent.derive(`m/${high}/${low}`)
      const own = privateKeyToAccount(toHex(privateKey!)).address.toLowerCase()
      expect(deposits.addressOf(accountId)).toBe(own)
      expect(deposits.addressOf(accountId)).toBe(own)
    }
  })

  it('differ between accounts made in the same instant', () => {
    const deposits = new DepositAddresses(parent.publicExtendedKey)
    const addresses = Array.from({ length: 200 }, () => deposits.addressOf(uuidv7(1_700_000_000_000)))
    expect(new Set(addresses).size).toBe(200)
  })

  it('use every random bit of the account id and nothing else', () => {
    expect(depositPath('01a20181-bcc3-7000-bfff-ffffffffffff')).toEqual([2 ** 31 - 1, 2 ** 31 - 1])
    expect(depositPath('01a20181-bcc3-7000-8000-000000000000')).toEqual([0, 0])
    expect(depositPath('01a20181-bcc3-7000-8000-00007fffffff')).toEqual([0, 2 ** 31 - 1])
    expect(depositPath('01a20181-bcc3-7000-8000-000080000000')).toEqual([1, 0])
    expect(depositPath('01a20181-bcc3-7fff-8000-000080000000')).toEqual([1, 0])
  })

  it('refuse a private key and what is no key', () => {
    expect(() => parseXpub(parent.privateExtendedKey)).toThrow('private')
    expect(() => parseXpub('xpub123')).toThrow()
  })
})
