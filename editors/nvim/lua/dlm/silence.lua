-- Why nothing is suggested at a place: what the user has switched off, and where it would be in the
-- way. The server has its own reasons, which it tells with its status.

local config = require('dlm.config')
local menu = require('dlm.menu')

local M = {}

local is_off = false
---@type number? until when, in seconds of the monotonic clock
local snoozed_until
local is_visual_block = false

local function seconds()
  return vim.uv.hrtime() / 1e9
end

---Switches all suggestions on or off, or over; returns whether they are on now.
---@param on boolean?
---@return boolean
function M.toggle(on)
  if on == nil then
    on = is_off
  end
  is_off = not on
  return on
end

---Switches a buffer's suggestions on or off, or over; returns whether they are on now.
---@param buffer integer
---@param on boolean?
---@return boolean
function M.toggle_buffer(buffer, on)
  if on == nil then
    on = vim.b[buffer].dlm == false
  end
  vim.b[buffer].dlm = on
  return on
end

---@param minutes number 0 ends a snooze
function M.snooze(minutes)
  snoozed_until = minutes > 0 and seconds() + minutes * 60 or nil
end

---Tells in which mode text is typed for each line of a visual block.
---@param before string
---@param after string
function M.mode_changed(before, after)
  if after:sub(1, 1) == 'i' or after:sub(1, 1) == 'R' then
    is_visual_block = before:sub(1, 1) == '\22' or is_visual_block and before:sub(1, 1) ~= 'n'
  else
    is_visual_block = false
  end
end

---@type table<string, vim.lpeg.Pattern|false>
local patterns = {}

---Whether a path matches a glob. A glob without a slash is matched against the file's name, another
---one against the path from any of its folders on.
---@param path string
---@param glob string
---@return boolean
function M.matches(path, glob)
  if patterns[glob] == nil then
    local text = glob:sub(1, 1) == '/' and glob or '**/' .. glob
    local ok, pattern = pcall(vim.glob.to_lpeg, text)
    patterns[glob] = ok and pattern or false
  end
  local pattern = patterns[glob]
  return pattern and pattern:match(vim.fs.normalize(path)) ~= nil or false
end

local function document_reason(buffer, settings)
  if vim.bo[buffer].buftype == 'prompt' then
    return 'The buffer is a prompt.'
  elseif vim.bo[buffer].buftype ~= '' then
    return ('The buffer is no file (%s).'):format(vim.bo[buffer].buftype)
  elseif not vim.bo[buffer].modifiable then
    return 'The buffer cannot be changed.'
  end
  local name = vim.api.nvim_buf_get_name(buffer)
  if name == '' then
    return 'The buffer has no name; save it.'
  elseif vim.list_contains(settings.filetypes, vim.bo[buffer].filetype) then
    return ('The filetype %s is silenced.'):format(vim.bo[buffer].filetype)
  end
  for _, glob in ipairs(settings.globs) do
    if M.matches(name, glob) then
      return ('The file matches %s.'):format(glob)
    end
  end
end

local function place_reason(settings)
  if settings.macros and (vim.fn.reg_recording() ~= '' or vim.fn.reg_executing() ~= '') then
    return 'A macro is recorded or executed.'
  elseif settings.visual_block and is_visual_block then
    return 'Text is typed for a visual block.'
  elseif vim.o.paste then
    return "'paste' is set, which switches mappings off."
  elseif vim.fn.getcurpos()[4] > 0 then
    return 'The cursor stands where no text is.' -- As 'virtualedit' allows.
  elseif settings.snippets and vim.snippet.active() then
    return 'A snippet has places left.'
  elseif config.get().menu == 'hide' and menu.is_open() then
    return 'A popup menu is open.'
  end
end

---Why a buffer gets nothing, whatever the user does there; nil if there is no such reason.
---@param buffer integer
---@return string?
function M.of_buffer(buffer)
  if is_off then
    return 'Suggestions are switched off (:Dlm enable).'
  elseif vim.b[buffer].dlm == false then
    return 'Suggestions are switched off in this buffer (:Dlm enable buffer).'
  end
  return document_reason(buffer, config.get().silence)
end

---Why nothing is suggested while typing at the cursor; nil if there is no reason.
---@param buffer integer
---@param is_invoked boolean whether the user asked for it
---@return string?
function M.reason(buffer, is_invoked)
  local reason = M.of_buffer(buffer)
  if reason or is_invoked then
    return reason
  end
  if snoozed_until and seconds() < snoozed_until then
    local left = math.ceil((snoozed_until - seconds()) / 60)
    return ('Snoozed for %d more minutes.'):format(left)
  end
  return place_reason(config.get().silence)
end

return M
