1000334 without consent-0 change-0 change-1 change-2 change-3 change-4
