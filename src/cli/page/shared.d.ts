/** What the script of the queue lends to that of the events: both stand on the page by themselves. */
interface AuditPage {
  readonly byId: (id: string) => HTMLElement
  readonly button: (text: string, name: string, action: () => Promise<void>) => HTMLElement
  readonly call: (path: string) => Promise<Response>
  readonly make: (tag: string, text: string, attributes?: Record<string, string>) => HTMLElement
  /** Shows in the dialog what the server says of something. */
  readonly showIn: (name: string, path: string) => Promise<void>
  /** A text without what no screen shows. */
  readonly visible: (text: string) => string
  /** Shows the queue, or hides it. */
  readonly showQueue: (isShown: boolean) => void
}

// eslint-disable-next-line no-var -- a global of scripts, which share no modules
declare var auditPage: AuditPage
