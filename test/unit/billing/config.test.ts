import { describe, expect, it } from 'vitest'
import { ConfigError, readConfig, readSweepKeys } from '../../../src/config.ts'
import { DEPOSIT_XPRV, DEPOSIT_XPUB } from '../../support/billing.ts'

const reasonFor = (environment: Record<string, string>): string => {
  try {
    readConfig(environment)
  } catch (error) {
    if (error instanceof ConfigError) return error.message
    throw error
  }
  return ''
}

describe('the settings of top-ups', () => {
  it('are all optional', () => {
    expect(readConfig({})).toMatchObject({ X402_NETWORK: 'eip155:84532', MIN_CONFIRMATIONS: 3 })
    expect(readConfig({ DEPOSIT_XPUB, PAYTO_ADDRESS: `0x${'a'.repeat(40)}` }).DEPOSIT_XPUB).toBe(DEPOSIT_XPUB)
  })

  it.each([
    ['PAYTO_ADDRESS', '0x123'],
    ['DEPOSIT_XPUB', DEPOSIT_XPRV],
    ['DEPOSIT_XPUB', `${DEPOSIT_XPUB.slice(0, -1)}${DEPOSIT_XPUB.endsWith('1') ? '2' : '1'}`],
    ['X402_NETWORK', 'base'],
    ['BASE_RPC_URL', 'ftp://node'],
    ['FACILITATOR_PRIVATE_KEY', '0x1'],
    ['MIN_CONFIRMATIONS', '0'],
    ['CDP_API_KEY_ID', 'alone'],
    ['USDC_ADDRESS', 'usdc'],
  ])('stop the start when %s is wrong', (name, value) => {
    expect(reasonFor({ [name]: value })).toContain(name)
  })

  it('stop the start when the CDP secret is no key', () => {
    expect(reasonFor({ CDP_API_KEY_ID: 'id', CDP_API_KEY_SECRET: 'secret' })).toContain('CDP_API_KEY_SECRET')
  })

  it('never repeat a private key that was put in the wrong place', () => {
    expect(reasonFor({ DEPOSIT_XPUB: DEPOSIT_XPRV })).not.toContain(DEPOSIT_XPRV.slice(4, 20))
    expect(() => readSweepKeys({})).toThrow('DEPOSIT_XPRV')
    expect(() => readSweepKeys({ DEPOSIT_XPRV })).toThrow('SWEEP_GAS_PRIVATE_KEY')
  })
})
