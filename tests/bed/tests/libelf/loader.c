/*
 * Loads files as xl does, by Xen's own libelf: the steps of xc_dom_parse_elf_kernel and
 * xc_dom_load_elf_kernel (tools/libs/guest/xg_dom_elfloader.c) for a PVH guest.
 *
 * Reads files from standard input, each after its length. For each it writes whether Xen loads it
 * (0: no, 1: yes, 2: yes, although libelf found accesses out of range, which xl only logs), and if
 * so entry point, first address, length and the loaded bytes. Numbers have eight bytes.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xen/libelf/libelf.h>

/* The most memory that a file of the tests has: more is refused, and not compared. */
#define MOST (64u << 20)
#define PAGE 4096u

static void put(uint64_t number)
{
    if (fwrite(&number, sizeof(number), 1, stdout) != 1)
        exit(2);
}

/* Returns the loaded memory, or NULL if Xen refuses the file. */
static char *load(const char *file, size_t size, uint64_t *broken, uint64_t *entry, uint64_t *start,
                  uint64_t *length)
{
    struct elf_binary elf;
    struct elf_dom_parms parms;
    char *memory;
    uint64_t span;

    if (!elf_is_elfbinary(file, size) || elf_init(&elf, file, size) != 0)
        return NULL;
    elf_parse_binary(&elf);
    if (elf_xen_parse(&elf, &parms, true) != 0 || parms.phys_entry == UNSET_ADDR32)
        return NULL;
    span = parms.virt_kend - parms.virt_kstart;
    if (parms.virt_kend < parms.virt_kstart || span > MOST)
        return NULL;
    span = (span + parms.virt_kstart % PAGE + PAGE - 1) / PAGE * PAGE;
    memory = calloc(span + PAGE, 1);
    if (memory == NULL)
        exit(2);
    /* xl gives libelf whole pages; the segment begins within the first. */
    elf.dest_base = memory;
    elf.dest_size = span;
    if (elf_load_binary(&elf) < 0) {
        free(memory);
        return NULL;
    }
    *broken = elf_check_broken(&elf) != NULL;
    *entry = parms.phys_entry;
    *start = parms.virt_kstart;
    *length = parms.virt_kend - parms.virt_kstart;
    return memory;
}

int main(void)
{
    uint64_t size;

    while (fread(&size, sizeof(size), 1, stdin) == 1) {
        uint64_t broken = 0, entry, start, length;
        char *file = malloc(size + 1), *memory;

        if (file == NULL || fread(file, 1, size, stdin) != size)
            return 2;
        memory = load(file, size, &broken, &entry, &start, &length);
        put(memory == NULL ? 0 : 1 + broken);
        if (memory != NULL) {
            put(entry);
            put(start);
            put(length);
            if (fwrite(memory, 1, length, stdout) != length)
                return 2;
        }
        if (fflush(stdout) != 0)
            return 2;
        free(memory);
        free(file);
    }
    return 0;
}
