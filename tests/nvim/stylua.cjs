// stylua.cjs FOLDER_OF_STYLUA [--write] FILE...: checks or rewrites the form of Lua files.

'use strict'

const fs = require('node:fs')
const path = require('node:path')

const [folder, ...rest] = process.argv.slice(2)
const stylua = require(path.join(folder, 'stylua_lib_node.cjs'))
const isWriting = rest[0] === '--write'

// The formatter takes its configuration over, so that each file needs one.
function configuration () {
  const config = stylua.Config.new()
  config.column_width = 100
  config.indent_type = stylua.IndentType.Spaces
  config.indent_width = 2
  config.quote_style = stylua.QuoteStyle.AutoPreferSingle
  config.syntax = stylua.LuaVersion.LuaJIT
  return config
}

let status = 0
for (const file of isWriting ? rest.slice(1) : rest) {
  const before = fs.readFileSync(file, 'utf8')
  const after = stylua.formatCode(before, configuration(), undefined, stylua.OutputVerification.None)
  if (after === before) continue
  if (isWriting) {
    fs.writeFileSync(file, after)
  } else {
    console.error(`${file} would be formatted otherwise (make format)`)
    status = 1
  }
}
process.exit(status)
