/** What the unit tests need of the editor's API: enough for modules to be loaded. */

export class ThemeColor {
  constructor(readonly id: string) {}
}

export const DecorationRangeBehavior = { ClosedClosed: 1 };
export const window = {};
export const workspace = {};
