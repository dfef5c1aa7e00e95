import { describe, expect, it } from 'vitest'
import { DeliveryPace } from '../../../src/notifications/pace.ts'

const paceOf = (commands_per_look: number) => {
  let commands = 0
  const count = () => {
    commands += commands_per_look
    return commands
  }
  // Only the commands count: this process is as busy as its tests.
  return new DeliveryPace(count, { pause_ms: 25, busyUtilization: 1, busyCommands_per_s: 500 })
}

describe('the pace of deliveries', () => {
  it('is not held back while there is little to decide', () => {
    const pace = paceOf(0)
    for (const priority of ['ordinary', 'urgent'] as const) {
      expect(pace.limit(priority)).toBe(Number.POSITIVE_INFINITY)
      expect(pace.rest_ms(priority, 32)).toBe(25)
    }
  })

  describe('of a busy process', () => {
    const busy = () => {
      const pace = paceOf(1e9)
      pace.limit('ordinary')
      return pace
    }

    it('is eight messages a quarter of a second, six of them urgent where so many are', () => {
      const pace = busy()
      expect([pace.limit('ordinary'), pace.rest_ms('ordinary', 8)]).toEqual([8, 250])
      expect([pace.limit('urgent'), pace.rest_ms('urgent', 6)]).toEqual([6, 250])
      expect(pace.limit('ordinary')).toBe(2)
    })

    it('lets an urgent message follow another without waiting for a turn', () => {
      const pace = busy()
      expect(pace.rest_ms('urgent', 1)).toBeCloseTo(250 / 6)
      expect(pace.rest_ms('urgent', 0)).toBe(25)
      expect(pace.rest_ms('ordinary', 0)).toBe(250)
    })

    it('takes what is urgent off the others, down to two, until they have had their turn', () => {
      const pace = busy()
      pace.rest_ms('urgent', 3)
      expect(pace.limit('ordinary')).toBe(5)
      expect(pace.limit('ordinary')).toBe(8)
      for (let n = 0; n < 5; n++) pace.rest_ms('urgent', 6)
      expect(pace.limit('ordinary')).toBe(2)
    })
  })
})
