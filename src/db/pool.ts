import type postgres from 'postgres'
import type { Sql, SqlTypes } from './client.ts'

/** How long statements on the other connections of a pool that lost one may still take. */
const RETIRE_SECONDS = 2

/** A pool that never uses a connection's place a second time. */
export type RenewedPool = {
  /** Stays the same handle for ever; statements go to the pool of the moment. */
  readonly sql: Sql
  /** Opens new connections for what comes; what is under way on the old ones fails if it does not end at once. */
  renew(): void
  /** Ends all pools, with `timeout` seconds for what is under way. */
  end(options: { timeout: number }): Promise<void>
}

type Pool = { readonly sql: Sql; hasLost: boolean }
type Work = (tx: postgres.TransactionSql<SqlTypes>) => unknown

/**
 * Replaces a pool as soon as one of its connections closes. postgres.js 3.4.9 opens the next connection in the same place and carries the
 * old one's state over (src/connection.js): a statement sent between a socket's 'error' and 'close' is never answered, and takes the
 * answer of a later one; bytes not yet flushed stay in `chunk` with their timer, so that new connections never send their startup message
 * and time out one by one; a FATAL message is reported to the next statement. None of it can be reset from outside.
 *
 * @param create makes a pool that calls `onClose` each time one of its connections closes
 */
export function createRenewedPool(create: (onClose: () => void) => Sql): RenewedPool {
  const retiring = new Set<Promise<void>>()
  let hasEnded = false
  const open = (): Pool => {
    const pool: Pool = {
      hasLost: false,
      sql: create(() => {
        pool.hasLost = true
        if (pool === current) renew()
      }),
    }
    return pool
  }
  const retire = ({ sql }: Pool): void => {
    const ended = sql
      .end({ timeout: RETIRE_SECONDS })
      .catch(() => {})
      .finally(() => retiring.delete(ended))
    retiring.add(ended)
  }
  let current = open()
  const renew = (): void => {
    if (hasEnded) return
    const old = current
    current = open()
    retire(old)
  }
  const callable = (() => {}) as unknown as Sql
  const sql = new Proxy(callable, {
    get: (_target, name): unknown => (name === 'begin' ? beginOn(current) : Reflect.get(current.sql, name)),
    apply: (_target, _this, args): unknown => Reflect.apply(current.sql, undefined, args),
  })
  return {
    sql,
    renew,
    async end(options) {
      hasEnded = true
      await Promise.all([current.sql.end(options), ...retiring])
    },
  }
}

/**
 * `begin` that sends nothing once a connection is lost: postgres.js sends even its `rollback` to a connection that is gone, which ends the
 * process (write of null). The transaction then fails with its connection, at the latest when the retired pool closes it.
 */
function beginOn(pool: Pool): Sql['begin'] {
  const begin = (...args: [Work] | [string, Work]): Promise<unknown> => {
    const [options, work] = args.length === 1 ? ['', args[0]] : args
    return pool.sql.begin(options, async (tx) => {
      try {
        const result = await work(guarded(tx, pool))
        if (!pool.hasLost) return result
      } catch (error) {
        if (!pool.hasLost) throw error
      }
      return new Promise(() => {})
    })
  }
  return begin as Sql['begin']
}

function guarded(tx: postgres.TransactionSql<SqlTypes>, pool: Pool): postgres.TransactionSql<SqlTypes> {
  const check = (): void => {
    if (pool.hasLost)
      throw Object.assign(new Error('the connection was lost within a transaction'), { code: 'CONNECTION_CLOSED' })
  }
  return new Proxy(tx, {
    get: (_target, name): unknown => {
      check()
      return Reflect.get(tx, name)
    },
    apply: (_target, _this, args): unknown => {
      check()
      return Reflect.apply(tx, undefined, args)
    },
  })
}
