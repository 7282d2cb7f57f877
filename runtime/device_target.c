/* device_target.c - which targets of packs a device runs: names only, no driver. See device.h. */
#include <stdio.h>
#include <string.h>

#include "cpu.h"
#include "device.h"

/* NVIDIA's code for an architecture runs on later ones as well, but with an 'a' on that one alone. Best first. */
static const struct {
    const char *target;
    int number; /* compute capability: 10 * major + minor */
    bool exact;
} nvidia[] = {
    {"sm_100a", 100, true}, {"sm_90a", 90, true}, {"sm_89", 89, false}, {"sm_86", 86, false}, {"sm_80", 80, false},
};

static const char *const amd[] = {"gfx90a", "gfx942", "gfx1100"};

static const char simt[] = "simt:", stand_in[] = "SIMT ";

static int nvidia_row(const char *target)
{
    for (int i = 0; i < (int)COUNT(nvidia); i++)
        if (!strcmp(nvidia[i].target, target))
            return i;
    return -1;
}

static bool runs(int number, int row)
{
    return nvidia[row].exact ? nvidia[row].number == number : nvidia[row].number <= number;
}

int device_rank(const char *device, const char *target)
{
    if (!*device)
        return cpu_rank(target);
    bool a = !strncmp(device, simt, sizeof simt - 1), b = !strncmp(target, simt, sizeof simt - 1);
    if (a != b)
        return -1;
    int of = nvidia_row(device + (a ? sizeof simt - 1 : 0)), row = nvidia_row(target + (b ? sizeof simt - 1 : 0));
    if (of < 0 || row < 0)
        return strcmp(device, target) ? -1 : 0;
    return runs(nvidia[of].number, row) ? row - of : -1;
}

static bool of_stand_in(const char *name, char target[DEVICE_TARGET_BYTES])
{
    if (strncmp(name, stand_in, sizeof stand_in - 1))
        return false;
    snprintf(target, DEVICE_TARGET_BYTES, "%s%.20s", simt, name + sizeof stand_in - 1);
    return true;
}

bool device_target_nvidia(const char *name, int major, int minor, char target[DEVICE_TARGET_BYTES], Err *err)
{
    if (of_stand_in(name, target))
        return true;
    for (size_t i = 0; i < COUNT(nvidia); i++)
        if (runs(10 * major + minor, (int)i)) {
            snprintf(target, DEVICE_TARGET_BYTES, "%s", nvidia[i].target);
            return true;
        }
    return err_set(err, "%s has compute capability %d.%d; 8.0 is the least that Blade has code for", name, major,
                   minor);
}

bool device_target_amd(const char *name, const char *arch, char target[DEVICE_TARGET_BYTES], Err *err)
{
    if (of_stand_in(name, target))
        return true;
    int n = (int)strcspn(arch, ":");
    for (size_t i = 0; i < COUNT(amd); i++)
        if (!strncmp(arch, amd[i], (size_t)n) && !amd[i][n]) {
            snprintf(target, DEVICE_TARGET_BYTES, "%s", amd[i]);
            return true;
        }
    return err_set(err, "%s is %.*s; Blade has code for gfx90a, gfx942 and gfx1100", name, n, arch);
}
