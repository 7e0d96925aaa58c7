/* Stands between Orthanc and SQLite (LD_PRELOAD): appends each statement, and a NUL, to the file that RECORD names. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static void record(const char *text, int bytes)
{
  size_t length = bytes < 0 ? strlen(text) : strnlen(text, bytes);
  struct iovec parts[] = {{(void *) text, length}, {"", 1}};
  int file = open(getenv("RECORD"), O_WRONLY | O_APPEND);
  if (file < 0 || writev(file, parts, 2) != (ssize_t) length + 1)
    abort();
  close(file);
}

int sqlite3_prepare(void *database, const char *text, int bytes, void **statement, const char **rest)
{
  int (*next)(void *, const char *, int, void **, const char **) = dlsym(RTLD_NEXT, "sqlite3_prepare");
  record(text, bytes);
  return next(database, text, bytes, statement, rest);
}

int sqlite3_prepare_v2(void *database, const char *text, int bytes, void **statement, const char **rest)
{
  int (*next)(void *, const char *, int, void **, const char **) = dlsym(RTLD_NEXT, "sqlite3_prepare_v2");
  record(text, bytes);
  return next(database, text, bytes, statement, rest);
}

int sqlite3_prepare_v3(void *database, const char *text, int bytes, unsigned flags, void **statement, const char **rest)
{
  int (*next)(void *, const char *, int, unsigned, void **, const char **) = dlsym(RTLD_NEXT, "sqlite3_prepare_v3");
  record(text, bytes);
  return next(database, text, bytes, flags, statement, rest);
}

int sqlite3_exec(void *database, const char *text, void *answer, void *given, char **error)
{
  int (*next)(void *, const char *, void *, void *, char **) = dlsym(RTLD_NEXT, "sqlite3_exec");
  record(text, -1);
  return next(database, text, answer, given, error);
}
