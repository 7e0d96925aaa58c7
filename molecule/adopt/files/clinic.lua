-- labels what the second scanner sends, and lets nobody delete
function OnStoredInstance(instanceId, tags, metadata, origin)
  if origin["RemoteAet"] == "US2" then
    SetMetadata(instanceId, "Reviewed", "no")
  end
end

function IncomingHttpRequestFilter(method, uri, ip, username, httpHeaders)
  return method ~= "DELETE"
end
