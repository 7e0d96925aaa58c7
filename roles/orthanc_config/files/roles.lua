-- What each user may do. The proxy decides it as well, so that a defect in one of them is not enough. The roles are
-- in orthanc.json. Orthanc gives the path without dot segments, and the method after any override.
local roles = GetOrthancConfiguration()['ClinicopsRoles']
local levels = { studies = true, series = true, instances = true }

-- While the monitor's disk guard is on, the disk is almost full: images are read, and new ones refused with "out of
-- resources" (DICOM PS3.4, table B.2-1), so that devices keep them and send them again.
local guard = GetOrthancConfiguration()['StorageDirectory'] .. '/.orthanc-disk-guard'

local function guarded()
  local file = io.open(guard)
  return file ~= nil and file:close()
end

-- An error, and not `false`: for that Orthanc drops the image and tells the device "success", as Orthanc 1.10 does
-- for any status of ReceivedCStoreInstanceFilter.
local theirs = ReceivedInstanceFilter -- of a script of the clinic's

function ReceivedInstanceFilter(...)
  if guarded() then error('image refused: the disk is almost full') end
  if theirs then return theirs(...) end
  return true
end

function IncomingHttpRequestFilter(method, uri, ip, username, headers)
  local role = roles[username]
  if method == 'POST' and (uri == '/instances' or uri:match('^/dicom%-web/studies')) and guarded() then
    return false
  elseif role == 'admin' then
    return true
  elseif role == 'health' then
    return method == 'GET' and uri == '/changes'
  elseif role ~= 'dicomweb_reader' and role ~= 'dicomweb_writer' then
    return false
  elseif method == 'GET' then
    -- the second is what the proxy requests to check a password
    local path = uri:match('^/dicom%-web/(.*)$') or uri:match('^/searches/(.*)$') -- see search.py
    return path and levels[path:match('^%l+$') or path:match('^(%l+)/')] or uri == '/dicom-web/info'
  end
  return role == 'dicomweb_writer' and method == 'POST'
    and (uri == '/dicom-web/studies' or uri:match('^/dicom%-web/studies/[%d.]+$') ~= nil)
end

-- Orthanc compares times as text, in which 0830 comes before 083000: a range of times ends with the longest spelling of
-- its end, and begins with the shortest of its beginning, for items that were served before their times had seconds.
-- One time is a range from itself to itself.
local function widen(times)
  local first, last = times:match('^([%d.]*)%-([%d.]*)%s*$')
  first = first or times:match('^([%d.]+)%s*$')
  last = last or first
  if not first then return times end
  if #last == 2 or #last == 4 then last = last .. ('5959'):sub(#last - 1) end
  return first:match('^(.-)[0.]*$') .. '-' .. last
end

-- A worklist query that declares several character sets, as scanners from East Asia send it, would fail: for
-- FilterIssuerAet the query is made anew out of JSON, which takes one. JSON is in UTF-8, so that one is right.
function IncomingWorklistRequestFilter(query, origin)
  query['0008,0005'] = 'ISO_IR 192'
  -- and so would one with a sequence of no items, which asks for all
  local steps = query['0040,0100']
  if type(steps) == 'table' and next(steps) == nil then query['0040,0100'] = nil end
  for _, step in pairs(type(steps) == 'table' and steps or {}) do
    if type(step['0040,0003']) == 'string' then step['0040,0003'] = widen(step['0040,0003']) end
  end
  return query
end

-- Who opened the index last, for whoever deploys or restores an older release: that would take images and lose them.
-- Orthanc calls this when the index is open, and it does not keep Orthanc from starting.
local initialize = Initialize -- of a script of the clinic's

local function note()
  local path = GetOrthancConfiguration()['StorageDirectory'] .. '/.orthanc-version'
  local version = ParseJson(RestApiGet('/system', true))['Version']
  local file = assert(io.open(path .. '.part', 'w'))
  assert(file:write(version, '\n'))
  assert(file:close())
  assert(os.rename(path .. '.part', path))
end

function Initialize()
  local done, why = pcall(note)
  if not done then print('.orthanc-version cannot be written: ' .. tostring(why)) end
  if initialize then initialize() end
end
