-- Sets the plugin up with its defaults. It loads the rest when it is needed: when the server is
-- attached to a buffer, or at a command. `let g:loaded_dlm = 1` before this keeps it away, for who
-- wants Neovim's own inline completion.

if vim.g.loaded_dlm then
  return
end
vim.g.loaded_dlm = 'plugin'

if vim.fn.has('nvim-0.11') == 0 then
  vim.notify('dlm needs Neovim 0.11 or newer.', vim.log.levels.ERROR)
  return
end

vim.api.nvim_create_user_command('Dlm', function(command)
  require('dlm.commands').run(command)
end, {
  nargs = '*',
  bar = true,
  range = true,
  complete = function(lead, line)
    return require('dlm.commands').complete(lead, line)
  end,
  desc = 'Suggestions by a diffusion language model',
})

local group = vim.api.nvim_create_augroup('dlm', {})

for name, handler in pairs({ LspAttach = 'attach', LspDetach = 'detach' }) do
  vim.api.nvim_create_autocmd(name, {
    group = group,
    callback = function(event)
      local client = vim.lsp.get_client_by_id(event.data.client_id)
      if client and client.name == 'dlm_lsp' then
        require('dlm.events')[handler](event.buf, client.id)
      end
    end,
    desc = 'dlm: ' .. handler .. ' a buffer',
  })
end
vim.api.nvim_create_autocmd('BufFilePre', {
  group = group,
  callback = function(event)
    local client = require('dlm.client')
    local attached = client.of(event.buf)
    if not attached then
      return
    end
    -- Neovim tells the server of the new name when the buffer is written; until then it would ask
    -- about a document that the server does not know.
    vim.lsp.buf_detach_client(event.buf, attached.id)
    vim.schedule(function() -- BufFilePost does not come if the name is refused.
      if vim.api.nvim_buf_is_loaded(event.buf) and not client.of(event.buf) then
        client.attach(event.buf)
      end
    end)
  end,
  desc = 'dlm: a buffer gets another name',
})
vim.api.nvim_create_autocmd('BufFilePost', {
  group = group,
  callback = function(event)
    local client = require('dlm.client')
    if vim.bo[event.buf].filetype ~= '' and not client.of(event.buf) then
      client.attach(event.buf)
    end
  end,
  desc = 'dlm: a buffer has got a name',
})

local function start()
  require('dlm.keys').set_plugs()
  require('dlm.keys').set_defaults()
  if require('dlm.config').get().enabled then
    vim.lsp.enable('dlm_lsp')
  end
end

if vim.v.vim_did_enter == 1 then
  start()
else
  vim.api.nvim_create_autocmd('VimEnter', { group = group, once = true, callback = start })
end
