/* What every test includes: cmocka last, because it makes a macro of the name fail. */
#ifndef QUERN_TEST_H
#define QUERN_TEST_H
#include "runtime/base.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#endif
