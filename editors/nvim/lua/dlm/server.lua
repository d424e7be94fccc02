-- Where the language server's program is. One that lies inside a project is never run, unless the
-- user trusts the project: a repository from a stranger may bring its own.

local M = {}

local NAMES = vim.fn.has('win32') == 1 and { 'dlm-lsp.exe', 'dlm-lsp' } or { 'dlm-lsp' }

local function real(path)
  return vim.uv.fs_realpath(path) or vim.fs.normalize(path)
end

local function is_within(path, folder)
  folder = vim.fs.normalize(folder)
  return path == folder or vim.startswith(path, folder == '/' and folder or folder .. '/')
end

---The folder of this plugin, and the clone of dlm-lsp that it is part of, if it is.
---@return string
---@return string?
function M.home()
  local source = debug.getinfo(1, 'S').source:sub(2)
  -- A package is often a link to a clone.
  local file = real(vim.fn.fnamemodify(source, ':p'))
  local plugin = vim.fs.dirname(vim.fs.dirname(vim.fs.dirname(file)))
  local clone = vim.fs.dirname(vim.fs.dirname(plugin))
  return plugin, vim.uv.fs_stat(clone .. '/dlm_lsp') and clone or nil
end

---Where a server of our own would be installed.
---@return string
function M.environment()
  return vim.fn.stdpath('data') .. '/dlm-lsp/venv'
end

---The project that a buffer belongs to.
---@param buffer integer
---@return string?
function M.root(buffer)
  return vim.fs.root(buffer, { 'dlm-lsp.toml', '.git' })
end

local function candidates()
  local found = {}
  local path = vim.env.PATH or ''
  for folder in vim.gsplit(path, vim.fn.has('win32') == 1 and ';' or ':', { plain = true }) do
    -- A relative entry of PATH means whatever folder one happens to be in.
    if folder:match('^/') or folder:match('^%a:[/\\]') then
      found[#found + 1] = { folder = folder, is_ours = false }
    end
  end
  found[#found + 1] = { folder = M.environment() .. '/bin', is_ours = true }
  local _, clone = M.home()
  if clone then
    found[#found + 1] = { folder = clone .. '/.venv/bin', is_ours = true }
  end
  return found
end

local function is_trusted(program, trusted)
  return vim.iter(trusted):any(function(folder)
    return is_within(program, real(vim.fn.expand(folder)))
  end)
end

---Finds the server's program.
---@param project string? the folder whose programs are not run
---@param trusted string[]
---@return string? program
---@return string? why not, as one sentence
function M.find(project, trusted)
  local refused
  local home = real(vim.env.HOME or '/')
  for _, candidate in ipairs(candidates()) do
    for _, name in ipairs(NAMES) do
      local program = vim.fs.normalize(candidate.folder) .. '/' .. name
      if vim.fn.executable(program) == 1 then
        -- The link itself and what it leads to must both lie outside. A project that holds the
        -- home folder would forbid everything, so it is no project.
        local root = project and real(project)
        local is_inside = root ~= nil
          and not is_within(home, root)
          and (is_within(program, root) or is_within(real(program), root))
        if candidate.is_ours or not is_inside or is_trusted(real(program), trusted) then
          return program
        end
        refused = refused or program
      end
    end
  end
  if refused then
    local sentence = '%s lies inside the project %s and is not run.'
    local remedy = " If you trust it, add the folder to 'trusted'."
    return nil, sentence:format(refused, project) .. remedy
  end
  return nil, M.advice()
end

---How to install the server, as one sentence.
---@return string
function M.advice()
  local _, clone = M.home()
  local environment = M.environment()
  local source = clone or 'PATH/TO/dlm-lsp'
  return ('dlm-lsp is not installed. Run: python3 -m venv %s && %s/bin/pip install %s'):format(
    environment,
    environment,
    source
  )
end

return M
