# What a machine without UEFI shows when it starts the medium: loaded by the BIOS to 0x7c00, from a stick as the first 440
# bytes of its master boot record, from a CD as the El Torito image.
.code16
.globl _start
_start:
    ljmp $0, $begin
begin:
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %ss
    mov $0x7c00, %sp
    cld
    mov $text, %si
next:
    lodsb
    test %al, %al
    jz stop
    mov $0x0e, %ah
    mov $0x0007, %bx
    int $0x10
    jmp next
stop:
    hlt
    jmp stop
text:
    .ascii "\r\nFurrow needs UEFI: this machine was started in BIOS (legacy, CSM) mode.\r\n"
    .asciz "Switch its firmware to UEFI and start this medium again.\r\n"
