/* Objects that the loader must refuse: BAD 1 calls an unknown function, BAD 2 has writable data. */
#include <stdint.h>

#if BAD == 1
int unknown_function(int);
#else
int unknown_function(int v);
int counter = 3;
int unknown_function(int v)
{
    return counter += v;
}
#endif

void kernel(int *out);

void kernel(int *out)
{
    *out = unknown_function(*out);
}
