import { mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type FolderLock, FolderLockedError, lockFolder } from '../../../src/db/folder-lock.ts'
import { startChild } from './child.ts'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gvnr-lock-test-'))
})
afterEach(() => rm(folder, { recursive: true, force: true }))

const holderCode = (path: string) =>
  `import { lockFolder } from './src/db/folder-lock.ts'
   await lockFolder(${JSON.stringify(path)}); console.log('held'); setInterval(() => {}, 1000)`

test('one holder at a time, and nothing left behind', async () => {
  const first = await lockFolder(folder)
  await expect(lockFolder(folder)).rejects.toThrow(FolderLockedError)
  await expect(lockFolder(folder)).rejects.toThrow(
    `another gvnr process is using ${folder}; stop it, or set DATABASE_URL to run several processes`,
  )
  await first.release()
  const second = await lockFolder(folder)
  await second.release()
  expect(await readdir(folder)).toEqual([])
})

test.each([
  ['short', 'data'],
  ['longer than a socket path may be', `${'long-'.repeat(20)}data`],
])('a folder whose path is %s is locked against another process, and free at once when that is killed', async (_, name) => {
  const path = join(folder, name)
  const { lines, kill } = startChild(holderCode(path))
  expect((await lines.next()).value).toBe('held')
  await expect(lockFolder(path)).rejects.toThrow(FolderLockedError)
  await kill()
  const since = performance.now()
  const lock = await lockFolder(path)
  expect(performance.now() - since).toBeLessThan(100)
  await lock.release()
})

test('a link to the folder is the same folder', async () => {
  const real = join(folder, 'real')
  await mkdir(real)
  await symlink(real, join(folder, 'link'))
  const lock = await lockFolder(join(folder, 'link'))
  await expect(lockFolder(real)).rejects.toThrow(FolderLockedError)
  await lock.release()
})

test('among many that start at the same moment, over a killed holder, exactly one wins', async () => {
  const { lines, kill } = startChild(holderCode(folder))
  await lines.next()
  await kill()
  let holders = 0
  for (let round = 0; round < 10; round += 1) {
    const results = await Promise.allSettled(Array.from({ length: 6 }, () => lockFolder(folder)))
    const won = results.filter((result): result is PromiseFulfilledResult<FolderLock> => result.status === 'fulfilled')
    expect(won.length).toBeLessThanOrEqual(1)
    holders += won.length
    for (const { value } of won) await value.release()
  }
  expect(holders).toBeGreaterThan(5)
})

test('the lock does not keep a process alive', async () => {
  const { child } = startChild(
    `import { lockFolder } from './src/db/folder-lock.ts'; await lockFolder(${JSON.stringify(folder)})`,
  )
  const code = await new Promise((resolve) => child.once('exit', resolve))
  expect(code).toBe(0)
})

test('other files in the folder are left alone', async () => {
  await writeFile(join(folder, 'notes.txt'), 'mine')
  const lock = await lockFolder(folder)
  await lock.release()
  expect(await readdir(folder)).toEqual(['notes.txt'])
})
