1000334 without consent-0 change-0 change-1 change-2 change-3 change-4 dress-0 dress-1 dress-2 dress-3 dress-4 dress-5 dress-6 step-0 step-1 step-2 step-3 step-4
