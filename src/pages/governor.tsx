/** The mark: a centrifugal governor, two weights on arms around a spindle. Takes the colour of the text around it. */
export function Governor() {
  return (
    <svg viewBox="0 0 32 32" aria-hidden="true">
      <Shapes />
    </svg>
  )
}

function Shapes() {
  return (
    <>
      <path
        d="M16 3v26M16 6 6.5 19M16 6l9.5 13M10.5 13.6 16 20l5.5-6.4M10 29h12"
        fill="none"
        stroke="currentColor"
        stroke-width="2.4"
        stroke-linecap="round"
        stroke-linejoin="round"
      />
      <circle cx="6" cy="20" r="4" fill="currentColor" />
      <circle cx="26" cy="20" r="4" fill="currentColor" />
    </>
  )
}

/** The mark as a file of its own, in a green that shows on light and dark tabs. */
export const favicon = (): string =>
  String(
    <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" color="#1f9d6f">
      <title>Gvnr</title>
      <Shapes />
    </svg>,
  )
