-- The container's health check may ask whether the index can be read, and nothing else.
function IncomingHttpRequestFilter(method, uri, ip, username, headers)
  return username ~= 'healthcheck' or (method == 'GET' and uri == '/changes')
end
