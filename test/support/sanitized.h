/*
 * Whether a test runs under a sanitizer, which makes it ten times slower or more: long texts may then be shorter.
 */
#ifndef PRECIS_TEST_SUPPORT_SANITIZED_H
#define PRECIS_TEST_SUPPORT_SANITIZED_H

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { TEST_SANITIZED = 1 };
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
enum { TEST_SANITIZED = 1 };
#else
enum { TEST_SANITIZED = 0 };
#endif
#else
enum { TEST_SANITIZED = 0 };
#endif

#endif
