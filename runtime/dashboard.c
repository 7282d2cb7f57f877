/* dashboard.c - the bytes of dashboard.html, put here by the assembler. */
#include "dashboard.h"

_Static_assert(sizeof(size_t) == 8, "dashboard_html_len is written as 8 bytes");

__asm__(".pushsection .rodata\n"
        ".global dashboard_html, dashboard_html_len\n"
        ".type dashboard_html, %object\n"
        ".type dashboard_html_len, %object\n"
        ".balign 16\n"
        "dashboard_html: .incbin \"" DASHBOARD_HTML "\"\n"
        "0: .byte 0\n"
        ".size dashboard_html, . - dashboard_html\n"
        ".balign 8\n"
        "dashboard_html_len: .quad 0b - dashboard_html\n"
        ".size dashboard_html_len, 8\n"
        ".popsection\n");
