const one = (): number => 1

/**
 * Bounds an LRUCache by its number of entries. With `max` it would take the memory for all of them at once, 12 MiB in the whole server, most
 * of which few servers ever fill; bounded by size it grows with what it holds.
 */
export const atMost = (entries: number): { readonly maxSize: number; readonly sizeCalculation: () => number } => ({
  maxSize: entries,
  sizeCalculation: one,
})
