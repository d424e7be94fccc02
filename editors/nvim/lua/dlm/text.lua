-- Text of suggestions: its parts, its width on the screen, and positions in the server's units.

local M = {}

---What stands for an undecided place in a draft.
M.MASKED = '░'

---@param text string
---@return string[]
function M.lines(text)
  return vim.split(text, '\n', { plain = true })
end

---Returns a text's lines as a buffer is to hold them: where its lines end in \r, although Neovim
---did not make it their line end, new lines do too.
---@param buffer integer
---@param row integer the line where the text is put, from 0
---@param text string
---@return string[]
function M.lines_for(buffer, row, text)
  local lines = M.lines(text)
  local line = vim.api.nvim_buf_get_lines(buffer, row, row + 1, false)[1]
  if vim.bo[buffer].fileformat == 'unix' and line:sub(-1) == '\r' then
    for index = 1, #lines - 1 do
      lines[index] = lines[index] .. '\r'
    end
  end
  return lines
end

---Returns a text with the line ends that this plugin counts in.
---@param text string
---@return string
function M.plain(text)
  return (text:gsub('\r\n?', '\n'))
end

---@param text string
---@return integer
function M.count_newlines(text)
  return select(2, text:gsub('\n', ''))
end

---The byte offset of a position's character in a line; one within a character is taken back to its
---beginning.
---@param line string
---@param character integer
---@param encoding string 'utf-8', 'utf-16' or 'utf-32'
---@return integer
function M.byte_of(line, character, encoding)
  local byte = vim.str_byteindex(line, encoding, math.max(0, character), false)
  if byte > 0 and byte < #line then
    byte = byte + vim.str_utf_start(line, byte + 1)
  end
  return byte
end

-- The byte length of the text's first character as one sees it, its combining marks included.
local function first_character(text)
  local first = vim.fn.strcharpart(text, 0, 1, true)
  return math.max(1, #first)
end

---The next word with the blanks before it; a line end counts as a blank.
---@param text string
---@return string
function M.word(text)
  local blanks = text:match('^%s*')
  local rest = text:sub(#blanks + 1)
  if rest == '' then
    return blanks
  end
  local pattern = vim.regex([[^\k\+]])
  local _, last = pattern:match_str(rest)
  return blanks .. rest:sub(1, last or first_character(rest))
end

---The rest of the line; where nothing is left of it, the next line with its line end.
---@param text string
---@return string
function M.line(text)
  local ends = text:find('\n', text:sub(1, 1) == '\n' and 2 or 1, true)
  return ends and text:sub(1, ends - 1) or text
end

---The text up to a character, that character included; empty if it does not occur.
---@param text string
---@param character string
---@return string
function M.up_to(text, character)
  local _, last = text:find(character, 1, true)
  return last and text:sub(1, last) or ''
end

---The text before the first undecided place.
---@param text string
---@return string
function M.decided(text)
  local first = text:find(M.MASKED, 1, true)
  return first and text:sub(1, first - 1) or text
end

---Returns text as the screen shows it: tabs become blanks, control characters readable.
---@param text string without line ends
---@param column integer where on the screen the text begins, from 0
---@param tabstop integer
---@return string
function M.shown(text, column, tabstop)
  if not text:find('%c') then
    return text
  end
  local parts = {}
  for part, control in text:gmatch('([^%c]*)(%c?)') do
    parts[#parts + 1] = part
    column = column + vim.api.nvim_strwidth(part)
    if control == '\t' then
      local width = tabstop - column % tabstop
      parts[#parts + 1] = (' '):rep(width)
      column = column + width
    elseif control ~= '' then
      local readable = vim.fn.strtrans(control)
      parts[#parts + 1] = readable
      column = column + #readable
    end
  end
  return table.concat(parts)
end

return M
