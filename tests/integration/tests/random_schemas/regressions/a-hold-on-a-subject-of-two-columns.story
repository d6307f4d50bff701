9000005 without row-2 row-3 row-4 row-5 row-6 row-7 row-8 row-9 row-10 row-11 hold-0 change-0 change-1 change-2 change-3 change-4
