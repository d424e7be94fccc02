-- Lets what the server sends become visible no more often than the eye wants it.

local M = {}

local UPDATE_MS = 40

---@class dlm.Pace
---@field private timer uv.uv_timer_t
---@field private drawn_at number
---@field private draw function
local Pace = {}
Pace.__index = Pace

local function milliseconds()
  return vim.uv.hrtime() / 1e6
end

---Returns the pace of one kind of drawing.
---@param draw function draws what there is to be seen now
---@return dlm.Pace
function M.new(draw)
  return setmetatable({ timer = assert(vim.uv.new_timer()), drawn_at = 0, draw = draw }, Pace)
end

---Notes that something new was drawn.
function Pace:drawn()
  self.drawn_at = milliseconds()
end

---Draws now, or as soon as UPDATE_MS have passed since something new was drawn.
function Pace:soon()
  local wait = self.drawn_at + UPDATE_MS - milliseconds()
  if wait <= 0 then
    self.timer:stop()
    self.draw()
  elseif not self.timer:is_active() then
    self.timer:start(math.ceil(wait), 0, vim.schedule_wrap(self.draw))
  end
end

---Drops what waits to be drawn.
function Pace:stop()
  self.timer:stop()
end

---Whether something waits to be drawn.
---@return boolean
function Pace:is_waiting()
  return self.timer:is_active() == true
end

return M
