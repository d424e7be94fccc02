local M = {}
function M.is_shown() return false end
function M.lost() end
return M
