# Enters the kernel from ring 3, and leaves it.
#
# While a service runs, FRAME_TOP and the TSS's RSP0 point past its trap frame, so that the
# processor and these stubs push straight into it. The frame, from its lowest address: r15 r14 r13
# r12 rbp rbx r11 rcx, a system call's arguments rdi rsi rdx r10 r8 r9, rax, vector, error code, then
# what the processor pushes: rip cs rflags rsp ss.

.macro push_registers
    push rax
    push r9
    push r8
    push r10
    push rdx
    push rsi
    push rdi
    push rcx
    push r11
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
.endm

.text
.global system_call_entry
system_call_entry:
    mov [rip + SCRATCH], rsp
    mov rsp, [rip + FRAME_TOP]
    push 0x1B                   # SS of ring 3
    push [rip + SCRATCH]
    push r11                    # RFLAGS
    push 0x23                   # CS of ring 3
    push rcx                    # RIP
    push 0
    push 0x100                  # the vector that stands for a system call
    push_registers
    lea rsp, [rip + stack_top]
    jmp saved                   # IA32_FMASK has cleared DF and AC

.macro trap number, has_error
.balign 16
.if \has_error == 0
    push 0
.endif
    push \number
# A double fault and a machine check have stacks of their own (`vectors.rs`). There is no trap frame
# of a service there, and no way back.
.if (\number == 8) || (\number == 18)
    jmp trapped_in_kernel
.else
    jmp trapped
.endif
.endm

# A stub takes 16 bytes, so that of a vector is at trap_stubs + 16 * vector.
.balign 16
.global trap_stubs
trap_stubs:
.set n, 0
.rept 32
.if (n == 8) || (n == 10) || (n == 11) || (n == 12) || (n == 13) || (n == 14) || (n == 17) || (n == 21) || (n == 29) || (n == 30)
    trap n, 1
.else
    trap n, 0
.endif
.set n, n + 1
.endr

trapped:
    test byte ptr [rsp + 24], 3 # the RPL of CS: from ring 0 or 3?
    jz trapped_in_kernel
.global save
save:
    push_registers
    cld
    lea rsp, [rip + stack_top]
    # An interrupt gate does not clear AC. A service can set it, which would turn SMAP off in the
    # kernel.
    pushfq
    and qword ptr [rsp], ~0x40000
    popfq
saved:
    xor ebp, ebp
    call kernel_entered
    mov rdi, rax
.global leave_kernel
leave_kernel:                   # rdi: the trap frame to go on with
    mov rsp, rdi
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    pop r11
    pop rcx
    pop rdi
    pop rsi
    pop rdx
    pop r10
    pop r8
    pop r9
    pop rax
    add rsp, 16
    iretq

trapped_in_kernel:
    push_registers
    cld
    mov rdi, rsp
    and rsp, -16
    call kernel_faulted
    ud2

# The instructions that enter Xen, and the numbers of ports, each as EVTCHNOP_send takes it.
#
# `hypercall_page.rs` knows these offsets. The code is position-independent and lies in one page. A
# copy of it is at `relocated_page`, whose address is a constant of the linker script.
.set VMMCALL, 0
.set VMCALL, 4
.set IDLE, 8
.set IDLE_OVER, IDLE + 2        # what follows `hlt`
.balign 256
.global hypercall_page
hypercall_page:
    vmmcall
    ret
.org hypercall_page + VMCALL
    vmcall
    ret
# Sleeps until an event. Interrupts are on only between `sti` and `cli`, and not before `hlt` has
# begun.
.org hypercall_page + IDLE
    sti
    hlt
    cli
    ret
.org hypercall_page + 16
.set n, 0
.rept 32
    .long n
.set n, n + 1
.endr

# The ways into Xen, as `WAY` has them (`Way` of `hypercall_page.rs`).
.set WAY_VMCALL, 2              # `vmcall` of the page above; any smaller: `vmmcall` of it
.set WAY_RELOCATED_VMMCALL, 3   # of the copy; any larger: `vmcall` of the copy

# Makes a hypercall, and sleeps until an event: by the instructions in use. There is no indirect
# branch, whose target ring 3 could have the processor mispredict.
.balign 16
.global make_hypercall
make_hypercall:
    cmp byte ptr [rip + WAY], WAY_RELOCATED_VMMCALL
    je relocated_page + VMMCALL
    ja relocated_page + VMCALL
    cmp byte ptr [rip + WAY], WAY_VMCALL
    je hypercall_page + VMCALL
    jmp hypercall_page + VMMCALL
.global sleep_until_event
sleep_until_event:
    cmp byte ptr [rip + WAY], WAY_RELOCATED_VMMCALL
    jae relocated_page + IDLE
    jmp hypercall_page + IDLE

# Handles the event upcall.
#
# In ring 0 it comes while the kernel sleeps, and the kernel then looks for events itself. So return
# with interrupts off, and to the instruction after `hlt`. A virtual machine may lose the shadow of
# `sti` at an exit, so that the upcall comes before `hlt`. Going back to `hlt` would then halt for
# good, with interrupts off.
#
# Anywhere else in ring 0 interrupts are off, and yet an upcall comes now and then: an emulated
# processor delivers an event twice if it leaves the virtual machine just after the first. The second
# one finds the kernel at the first instruction here, on the stack of an entry from ring 3. Nothing is
# lost by returning at once.
.balign 16
.global upcall_entry
upcall_entry:
    test byte ptr [rsp + 8], 3
    jz 1f
    push 0
    push 0xF3
    jmp save
1:  push rax
    push rcx
    lea rax, [rip + relocated_page + IDLE_OVER]
    lea rcx, [rip + hypercall_page + IDLE_OVER]
    cmp byte ptr [rip + WAY], WAY_RELOCATED_VMMCALL
    cmovb rax, rcx
    mov rcx, [rsp + 16]
    sub rcx, rax                # -1 before `hlt`, which has one byte, and 0 after it
    inc rcx
    cmp rcx, 1
    ja 2f
    mov [rsp + 16], rax
    and qword ptr [rsp + 32], ~0x200
2:  pop rcx
    pop rax
    iretq

# Handles a non-maskable interrupt: sets a flag that the kernel reads when it is next entered.
.balign 16
.global nmi_entry
nmi_entry:
    mov byte ptr [rip + NMI_SEEN], 1
    iretq

# Overwrites the processor's predictions of returns: as many calls as any processor remembers. What
# a misprediction would run after each is `int3`.
.balign 16
.global fill_return_predictions
fill_return_predictions:
    mov ecx, 16
1:  call 2f
    int3
2:  call 3f
    int3
3:  add rsp, 16
    dec ecx
    jnz 1b
    lfence
    ret
