// As nvme.h beside it.

#pragma once

#include <cstdarg>

enum spdk_log_level { SPDK_LOG_ERROR, SPDK_LOG_WARN, SPDK_LOG_NOTICE };
using spdk_log_cb = void(int, const char*, int, const char*, const char*, va_list);

void spdk_log_open(spdk_log_cb* log);
void spdk_log_set_print_level(spdk_log_level level);
