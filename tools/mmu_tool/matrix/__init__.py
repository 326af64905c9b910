"""The access matrix: every legal combination of entry flags, CPU controls and accesses, in one paging mode.

The combinations are those of kvm-unit-tests' x86/access.c for a processor with 40 physical-address bits and
protection keys: 19,169,280 for 4-level paging, and as many for 5-level. Three answers are compared for each:

    rules      what the manual says, written down once more and apart from the model
    batch      the walk of many addresses at once, made for every combination
    single     the walk of one address

The single walk is made once for all the combinations that put the same words before it: a cold walk depends
on nothing but the registers, the access and the words that it reads. The flags of a page table below a
2-MByte page, for instance, are read by no walk. Which words those are is observed, not assumed. An access
that follows another one is looked up among the walks that found the flags which the first one left.

    combinations    which there are, in blocks that can be checked one by one
    scene           a block as page tables
    rules           the rules
    check           the comparison
"""
