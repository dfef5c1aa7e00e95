import { bigint, jsonb, pgTable, text } from 'drizzle-orm/pg-core'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Database, openDatabase } from '../../../src/db/client.ts'
import { createEmptyDatabase, type EmptyDatabase } from './empty-database.ts'

const CASES = [
  { kind: 'pglite', prepare: true },
  { kind: 'postgres', prepare: true },
  { kind: 'postgres', prepare: false },
] as const

describe.each(CASES)('database client [$kind, prepare $prepare]', ({ kind, prepare }) => {
  let home: EmptyDatabase
  let database: Database
  const logged: string[] = []

  beforeAll(async () => {
    home = await createEmptyDatabase(kind)
    database = await openDatabase({ ...home, prepare, log: (message) => logged.push(message) })
    await database.sql.unsafe('create table things (id text primary key, amount bigint, body jsonb)')
  })
  afterAll(async () => {
    await database.close()
    await home.drop()
  })

  const run = (statement: string, parameters: Parameters<typeof database.sql.unsafe>[1] = []) =>
    database.sql.unsafe(statement, parameters, { prepare: database.prepare })
  const codeOf = async (query: Promise<unknown>) => {
    const error = await query.then(
      () => undefined,
      (reason: unknown) => reason,
    )
    return error instanceof postgres.PostgresError ? error.code : error
  }

  test('is what it says it is', async () => {
    await database.ping()
    expect(database).toMatchObject({ kind, prepare })
    expect(database.laneSql === database.sql).toBe(kind === 'pglite')
    expect(logged.filter((line) => line.includes('one process only'))).toHaveLength(kind === 'pglite' ? 1 : 0)
  })

  test('int8 is bigint both ways, beyond 2^53', async () => {
    const huge = 9_223_372_036_854_775_807n
    expect(await run('select $1::bigint as huge, count(*) as rows from things', [huge])).toEqual([{ huge, rows: 0n }])
  })

  test('jsonb goes in as object or JSON text and comes back parsed, also after drizzle took the client', async () => {
    const body = { a: [1, 'ä"\\', null], b: { c: true } }
    const rows = await run('select $1::jsonb as object, $2::jsonb as text, $3::jsonb as none', [body, JSON.stringify(body), null])
    expect(rows).toEqual([{ object: body, text: body, none: null }])
  })

  test('arrays, as values and as literals', async () => {
    const odd = ['', 'NULL', 'a,b', '{x}', 'q"uo\\te', 'line\nbreak']
    const [row] = await run('select $1::text[] as t, $2::bigint[] as b, $3::bigint[] as l, $4::boolean[] as f, $5::int[] as i', [
      odd,
      database.sql.types.bigintArray([1n, null, -(2n ** 62n)]),
      '{7,8}',
      database.sql.types.booleanArray([true, false]),
      [],
    ])
    expect(row).toEqual({ t: odd, b: [1n, null, -(2n ** 62n)], l: [7n, 8n], f: [true, false], i: [] })
  })

  test('a failed statement carries its SQLSTATE and leaves the connection usable', async () => {
    await run('insert into things (id) values ($1)', ['twice'])
    expect(await codeOf(run('insert into things (id) values ($1)', ['twice']))).toBe('23505')
    expect(await codeOf(run('selec $1::int', [1]))).toBe('42601')
    expect(await codeOf(run('select $1::int as n', ['no number']))).toBe('22P02')
    expect(await codeOf(run('select 1 from absent'))).toBe('42P01')
    expect(await run('select $1::int as n', [5])).toEqual([{ n: 5 }])
  })

  test('statements in flight together keep their own answers and errors', async () => {
    const answers = await Promise.all(
      Array.from({ length: 500 }, (_, i) =>
        run('select 100 / $1::int as n', [i % 10]).then(
          ([row]) => row?.n,
          (error: unknown) => (error instanceof postgres.PostgresError ? error.code : error),
        ),
      ),
    )
    expect(answers).toEqual(Array.from({ length: 500 }, (_, i) => (i % 10 === 0 ? '22012' : Math.trunc(100 / (i % 10)))))
  })

  test('several statements in one simple query', async () => {
    const results = await database.sql.unsafe('select 1 as a; select 2 as b')
    expect(results.flat()).toEqual([{ a: 1 }, { b: 2 }])
  })

  test('transactions commit, roll back, and nest', async () => {
    const rejected = database.sql.begin(async (tx) => {
      await tx.unsafe('insert into things (id) values ($1)', ['undone'])
      throw new Error('changed my mind')
    })
    await expect(rejected).rejects.toThrow('changed my mind')
    await database.sql.begin(async (tx) => {
      await tx.unsafe('insert into things (id) values ($1)', ['kept'])
      await tx.savepoint((inner) => inner.unsafe('insert into things (id) values ($1)', ['kept'])).catch(() => {})
      await tx.unsafe('insert into things (id) values ($1)', ['kept too'])
    })
    const rows = await run("select id from things where id in ('undone', 'kept', 'kept too') order by id")
    expect(rows.map(({ id }) => id)).toEqual(['kept', 'kept too'])
  })

  test('statements outside wait while a transaction has the connection, and are then answered', async () => {
    const transactions = Array.from({ length: 5 }, (_, i) =>
      database.sql.begin(async (tx) => {
        await tx.unsafe('select 1')
        return (await tx.unsafe('select $1::int as n', [i]))[0]?.n
      }),
    )
    const others = Array.from({ length: 5 }, (_, i) => run('select $1::int as n', [i]).then(([row]) => row?.n))
    expect(await Promise.all([...transactions, ...others])).toEqual([0, 1, 2, 3, 4, 0, 1, 2, 3, 4])
  })

  test('10 MB in one value, in many rows, and as a parameter', async () => {
    const [one] = await run("select repeat('x', 10000000) as x")
    expect(one?.x.length).toBe(10_000_000)
    const rows = await run("select i, repeat('x', 1000) as x from generate_series(1, 10000) i")
    expect(rows.length).toBe(10_000)
    expect(rows.every(({ i, x }, index) => i === index + 1 && x.length === 1000)).toBe(true)
    expect(await run('select length($1::text) as n', ['ß'.repeat(5_000_000)])).toEqual([{ n: 5_000_000 }])
  })

  test('the event loop turns while the database works', async () => {
    let turns = 0
    const timer = setInterval(() => (turns += 1), 5)
    await run('select sum(sqrt(i)) from generate_series(1, 1000000) i')
    clearInterval(timer)
    expect(turns).toBeGreaterThan(3)
  })

  test('cancelling a statement does no harm', async () => {
    const query = database.sql.unsafe('select count(*) from generate_series(1, 300000)')
    const settled = query.then(
      () => 'done',
      () => 'cancelled',
    )
    await new Promise((resolve) => setTimeout(resolve, 20))
    query.cancel()
    expect(['done', 'cancelled']).toContain(await settled)
    expect(await run('select $1::int as n', [1])).toEqual([{ n: 1 }])
  })

  test('drizzle reads and writes the same types', async () => {
    const things = pgTable('things', {
      id: text().primaryKey(),
      amount: bigint({ mode: 'bigint' }),
      body: jsonb(),
    })
    const row = { id: 'drizzled', amount: 2n ** 60n, body: { note: 'ok', list: [1, 2] } }
    await database.orm.transaction((tx) => tx.insert(things).values(row))
    const rows = (await database.orm.select().from(things)).filter(({ id }) => id === row.id)
    expect(rows).toEqual([row])
    expect(await run(`select body->>'note' as note from things where id = $1`, [row.id])).toEqual([{ note: 'ok' }])
  })

  test('notifications reach listeners until they unsubscribe', async () => {
    const received: string[] = []
    let ready = 0
    const unsubscribe = await database.listen(
      'keys.revoked',
      (payload) => received.push(payload),
      () => (ready += 1),
    )
    await database.notify('keys.revoked', 'one "and" more')
    const expected = prepare ? ['one "and" more'] : []
    await expect.poll(() => received).toEqual(expected)
    expect(ready).toBe(prepare ? 1 : 0)
    await unsubscribe()
    await database.notify('keys.revoked', 'too late')
    await database.ping()
    expect(received).toEqual(expected)
    expect(logged.some((line) => line.includes('no LISTEN behind a transaction pooler'))).toBe(!prepare)
  })

  test.runIf(kind === 'postgres')('session timeouts are set unless a pooler is in between', async () => {
    const [row] = await run(`select current_setting('statement_timeout') as s, current_setting('lock_timeout') as l,
      current_setting('idle_in_transaction_session_timeout') as i, current_setting('application_name') as a`)
    expect(row).toEqual(prepare ? { s: '10s', l: '5s', i: '10s', a: 'gvnr' } : { s: '0', l: '0', i: '0', a: 'gvnr' })
  })
})

test('close can be called twice, and statements after it fail', async () => {
  const home = await createEmptyDatabase('postgres')
  const database = await openDatabase(home)
  await Promise.all([database.close(), database.close()])
  await expect(database.ping()).rejects.toThrow('CONNECTION_ENDED')
  await home.drop()
})
